//! The load balancers themselves, configured as in `deploy/`, in front of three gateways.

use std::{
    collections::{HashMap, HashSet},
    fs,
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{
    CONTROL, Client, Cluster, Instance, Process, Size, compat, install_node_packages,
    servers::{Signal, free_port, program},
    until,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
    time::timeout,
};

use crate::{manifests::yaml, read};

const WITHIN: Duration = Duration::from_secs(90);
/// Clients of each transport.
const CLIENTS: usize = 30;
const TRANSPORTS: [&str; 3] = ["websocket", "polling", "upgrade"];
/// Addresses from which handshakes come to each gateway, as good as surely.
const ADDRESSES: u8 = 40;
/// Characters of a session id that name its gateway.
const GATEWAY: usize = 6;

/// A load balancer. Ends when it is dropped.
struct Balancer {
    process: Process,
    address: SocketAddr,
    _directory: TempDir,
}

impl Balancer {
    fn nginx(gateways: &[Instance]) -> Result<Self> {
        let directory = TempDir::with_prefix("fanfare-nginx-")?;
        let port = free_port()?;
        let place = directory.path().display();
        let configuration = read("deploy/nginx/nginx.conf")?;
        ensure!(
            configuration.contains("listen 80;"),
            "the test changes the port of nginx.conf"
        );
        // Its own defaults lie in directories of the system.
        let paths = ["client_body", "proxy", "fastcgi", "scgi", "uwsgi"]
            .map(|name| format!("{name}_temp_path {place}/{name};"))
            .join(" ");
        let configuration = configuration
            .replace("listen 80;", &format!("listen 127.0.0.1:{port};"))
            .replace("access_log off;", &format!("access_log off; {paths}"));
        fs::write(directory.path().join("nginx.conf"), configuration)?;
        let servers = gateways
            .iter()
            .map(|gateway| {
                let address = gateway.address()?;
                Ok(format!("server {address} max_fails=3 fail_timeout=5s;\n"))
            })
            .collect::<Result<String>>()?;
        fs::write(directory.path().join("upstream.conf"), servers)?;
        let mut command = Command::new(program("nginx")?);
        command
            .arg("-p")
            .arg(directory.path())
            .args(["-e", "stderr", "-c", "nginx.conf", "-g"])
            .arg(format!("daemon off; pid {place}/pid;"));
        Self::start("nginx", command, port, directory, gateways.len(), || true)
    }

    fn envoy(file: &str, gateways: &[Instance]) -> Result<Self> {
        let directory = TempDir::with_prefix("fanfare-envoy-")?;
        let port = free_port()?;
        let mut configuration = yaml(&read(file)?)?;
        let resources = &mut configuration["static_resources"];
        resources["listeners"][0]["address"]["socket_address"] =
            json!({"address": "127.0.0.1", "port_value": port});
        let endpoints = gateways
            .iter()
            .map(|gateway| {
                let (clients, admin): (_, SocketAddr) = (gateway.address()?, gateway.admin().parse()?);
                let address = json!({"address": "127.0.0.1", "port_value": clients.port()});
                Ok(json!({"endpoint": {
                    "address": {"socket_address": address},
                    "health_check_config": {"port_value": admin.port()},
                }}))
            })
            .collect::<Result<Vec<_>>>()?;
        resources["clusters"][0]["load_assignment"]["endpoints"][0]["lb_endpoints"] = endpoints.into();
        let admin = free_port()?;
        configuration["admin"] = json!({
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": admin}}
        });
        let path = directory.path().join("envoy.json");
        fs::write(&path, configuration.to_string())?;
        let mut command = Command::new(program("envoy")?);
        command.arg("-c").arg(path).args([
            "--use-dynamic-base-id",
            "--concurrency",
            "2",
            "--log-level",
            "warning",
        ]);
        let admin = SocketAddr::from(([127, 0, 0, 1], admin));
        Self::start("envoy", command, port, directory, gateways.len(), || {
            all_are_healthy(admin, gateways.len())
        })
    }

    /// Starts it and waits until it has found the gateways.
    fn start(
        name: &str,
        mut command: Command,
        port: u16,
        directory: TempDir,
        gateways: usize,
        is_ready: impl Fn() -> bool,
    ) -> Result<Self> {
        let mut balancer = Self {
            process: Process::start(name, &mut command)?,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            _directory: directory,
        };
        let runtime = tokio::runtime::Runtime::new()?;
        until("the balancer has found all gateways", WITHIN, || {
            ensure!(
                balancer.process.is_running()?,
                "{name} has ended:\n{}",
                balancer.process.output()
            );
            if !is_ready() {
                return Ok(false);
            }
            let found = runtime.block_on(async {
                let mut found = HashSet::new();
                for last in 1..=ADDRESSES {
                    found.extend(
                        gateway_for(balancer.address, Ipv4Addr::new(127, 0, 3, last))
                            .await
                            .ok(),
                    );
                }
                found.len()
            });
            Ok(found == gateways)
        })?;
        Ok(balancer)
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        // nginx killed outright leaves its workers behind.
        if self.process.signal(Signal::TERM).is_ok() {
            let _ = self.process.wait(Duration::from_secs(10));
        }
    }
}

/// Whether Envoy has checked all of so many gateways. Before, it sends clients to all of them, to two, and to all again.
fn all_are_healthy(admin: SocketAddr, gateways: usize) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect(admin)?;
        stream.write_all(b"GET /clusters HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")?;
        io::read_to_string(stream)
    };
    ask().is_ok_and(|clusters| clusters.matches("::health_flags::healthy").count() == gateways)
}

/// The gateway that a handshake from an address of the loopback comes to, as session ids name it.
async fn gateway_for(balancer: SocketAddr, from: Ipv4Addr) -> Result<String> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let mut stream = socket.connect(balancer).await?;
    let request = "GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    timeout(WITHIN, stream.read_to_string(&mut answer)).await??;
    let (_, sid) = answer.split_once("\"sid\":\"").context("a handshake")?;
    Ok(sid.chars().take(GATEWAY).collect())
}

type Owners = HashMap<String, String>;

/// A line of `balanced.mjs`; one of its fields is there.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Line {
    exchanged: Option<usize>,
    owners: Option<Owners>,
    moved: Option<Moved>,
    r#finally: Option<Owners>,
    again: Option<Owners>,
    trouble: Option<String>,
}

#[derive(Deserialize)]
struct Moved {
    name: String,
}

/// Stock clients behind the balancer.
struct Stock {
    process: Process,
}

impl Stock {
    fn start(balancer: &Balancer, cookies: &str) -> Result<Self> {
        install_node_packages()?;
        let mut command = Command::new("node");
        command
            .arg("cluster/balanced.mjs")
            .current_dir(compat())
            .env("FANFARE_URL", format!("http://{}", balancer.address))
            .env("FANFARE_CLIENTS", CLIENTS.to_string())
            .env("FANFARE_TRANSPORTS", TRANSPORTS.join(","))
            .env("FANFARE_COOKIES", cookies);
        let process = Process::start("balanced.mjs", &mut command)?;
        Ok(Self { process })
    }

    /// Waits for a line.
    fn line<T>(&self, what: &str, find: impl Fn(Line) -> Option<T>) -> Result<T> {
        self.process
            .line(what, WITHIN, |line| find(serde_json::from_str(line).ok()?))
    }

    /// What it has told of a kind.
    fn told<T>(&self, find: impl Fn(Line) -> Option<T>) -> Vec<T> {
        let output = self.process.output();
        let lines = output.lines().filter_map(|line| serde_json::from_str(line).ok());
        lines.filter_map(find).collect()
    }
}

/// Every second stock client does. The connections of the others may be tunnels of a gateway that leaves.
fn keeps_cookies(name: &str) -> bool {
    let number = name
        .rsplit('-')
        .next()
        .and_then(|number| number.parse::<usize>().ok());
    number.is_some_and(|number| number % 2 == 0)
}

/// All transports through a balancer, then one gateway leaves. At most so many requests may have to be forwarded, and so
/// many new handshakes from addresses whose gateway stays may come elsewhere; `None` for a balancer that does not hash.
fn in_front_of_three(
    start: impl FnOnce(&[Instance]) -> Result<Balancer>,
    most_forwards: f64,
    most_elsewhere: Option<usize>,
) -> Result<()> {
    let settings = [("FANFARE_GATEWAY__DRAIN_SECONDS", "4")];
    Cluster::run(Size::default(), &settings, |cluster| {
        let balancer = start(&cluster.gateways)?;
        let stock = Stock::start(&balancer, "yes")?;
        stock.line("all have heard all", |line| line.exchanged)?;
        let before: Owners = stock.line("who is where", |line| line.owners)?;
        let forwards = cluster.metric("fanfare_forwards_total", "")?;
        let failed = cluster.metric("fanfare_forwards_total", "result=\"failed\"")?
            + cluster.metric("fanfare_forwards_total", "result=\"gone\"")?;
        let mut at = HashMap::<&str, usize>::new();
        for gateway in before.values() {
            *at.entry(gateway).or_default() += 1;
        }
        eprintln!(
            "{} clients at {:?}, {forwards} requests forwarded",
            before.len(),
            at.values()
        );
        ensure!(before.len() == CLIENTS * TRANSPORTS.len());
        ensure!(at.len() == 3, "not every gateway has clients: {at:?}");
        ensure!(failed == 0.0, "{failed} requests could not be forwarded");
        ensure!(
            stock.told(|line| line.trouble).is_empty(),
            "{}",
            stock.process.output()
        );
        ensure!(
            forwards <= most_forwards,
            "{forwards} requests had to be forwarded"
        );

        let leaver = cluster.gateways.remove(0);
        let runtime = tokio::runtime::Runtime::new()?;
        let left = runtime.block_on(gateway_for(leaver.address()?, Ipv4Addr::LOCALHOST))?;
        leaver.signal(Signal::TERM)?;
        leaver.ended()?;
        until("all are back", WITHIN, || {
            let connected = cluster.metric("socket_active_connections", "namespace=\"/chat\"")?;
            Ok(connected as usize == before.len())
        })?;
        let address = cluster.addresses()?[0];
        runtime.block_on(async {
            let outside = Client::connect(address).await?;
            outside.publish(CONTROL, "now", "now").await
        })?;
        let after = stock.line("who is where in the end", |line| line.r#finally)?;
        let again = stock.line("who new handshakes come to", |line| line.again)?;
        let moved: Vec<_> = stock
            .told(|line| line.moved)
            .into_iter()
            .map(|moved| moved.name)
            .collect();
        let troubles = stock.told(|line| line.trouble);
        let share = before.values().filter(|gateway| **gateway == left).count();
        eprintln!("{share} of {} clients moved with their gateway", before.len());
        // Until a balancer like that has seen that a target goes, the cookie leads there, and the client tries again.
        let excused = |trouble: &&String| {
            let name = trouble.split(':').next().unwrap_or_default();
            let was_there = before.get(name) == Some(&left) || !keeps_cookies(name);
            most_elsewhere.is_none() && was_there && trouble.contains("connect_error")
        };
        let troubles: Vec<_> = troubles.iter().filter(|trouble| !excused(trouble)).collect();
        ensure!(
            troubles.is_empty(),
            "{troubles:#?}\n{}",
            balancer.process.output()
        );
        let mut elsewhere = 0;
        for (name, gateway) in &before {
            let now = after.get(name).context("it is still there")?;
            if *gateway == left {
                ensure!(moved.contains(name) && now != gateway, "{name} was not moved");
            } else if most_elsewhere.is_some() || keeps_cookies(name) {
                ensure!(
                    !moved.contains(name),
                    "{name} lost its connection to a gateway that stays"
                );
                ensure!(now == gateway, "{name} is elsewhere");
                if again.get(name).is_some_and(|again| again != gateway) {
                    elsewhere += 1;
                }
            }
        }
        if let Some(most) = most_elsewhere {
            eprintln!("{elsewhere} of those who stayed would now come elsewhere");
            ensure!(
                elsewhere <= most,
                "{elsewhere} new handshakes come to another gateway"
            );
            let next: Vec<_> = after
                .iter()
                .filter(|(name, _)| before[*name] == left)
                .map(|(_, gateway)| gateway)
                .collect();
            // Of fewer addresses all may well come to the same one.
            if next.len() >= 12 * TRANSPORTS.len() {
                ensure!(
                    next.iter().any(|gateway| gateway != &next[0]),
                    "all {} that had to move are at one gateway",
                    next.len()
                );
            }
        }
        Ok(())
    })
}

#[test]
fn nginx_hashes_the_session_key() -> Result<()> {
    in_front_of_three(Balancer::nginx, 0.0, Some(0))
}

#[test]
fn envoys_ring_hashes_the_session_key() -> Result<()> {
    in_front_of_three(
        |gateways| Balancer::envoy("deploy/envoy/envoy.yaml", gateways),
        0.0,
        Some(CLIENTS / 3),
    )
}

/// The clients without cookies come to any gateway with every request, and none fails.
#[test]
fn a_cookie_named_awsalb_keeps_those_who_keep_cookies() -> Result<()> {
    in_front_of_three(
        |gateways| Balancer::envoy("deploy/envoy/alb.yaml", gateways),
        f64::INFINITY,
        None,
    )
}

/// What the address of a gateway is, in a configuration that nobody has changed.
#[test]
fn they_wait_longer_than_the_heartbeat_and_keep_no_session_ids() -> Result<()> {
    let nginx = read("deploy/nginx/nginx.conf")?;
    ensure!(nginx.contains("proxy_read_timeout 120s;") && nginx.contains("hash $fanfare_key consistent;"));
    ensure!(!nginx.contains("$request_uri") && !nginx.contains("\"$request\""));
    for file in ["deploy/envoy/envoy.yaml", "deploy/envoy/alb.yaml"] {
        let configuration = yaml(&read(file)?)?;
        let manager = &configuration["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0];
        let manager = &manager["typed_config"];
        ensure!(manager["stream_idle_timeout"] == "120s", "{file}");
        ensure!(
            manager["upgrade_configs"][0]["upgrade_type"] == "websocket",
            "{file}"
        );
        let routes = &manager["route_config"]["virtual_hosts"][0]["routes"];
        let Some(routes) = routes.as_array() else {
            bail!("{file}: no routes")
        };
        let endless = |route: &Value| route["route"]["timeout"] == "0s";
        ensure!(
            routes.iter().all(endless),
            "{file}: a poll may wait for longer than a timeout"
        );
    }
    Ok(())
}
