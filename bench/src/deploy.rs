//! Deployments that the generator starts itself: private processes on free ports, pinned to a core, gone
//! afterwards.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::procs::Process;

/// A server waits so long for another, and we for it.
const START: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);
/// What a log shows of a server that did not come up.
const SHOWN: usize = 4000;

/// What runs, to be ended whatever ends this process.
static RUNNING: Mutex<Running> = Mutex::new(Running {
    processes: Vec::new(),
    directories: Vec::new(),
});

struct Running {
    processes: Vec<u32>,
    directories: Vec<PathBuf>,
}

/// What to start, and with what.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `KEY=VALUE` as `--set` of the roles takes it.
    pub set: Vec<(String, String)>,
    /// Configuration file of the roles.
    pub config: Option<PathBuf>,
    /// Tokens are signed with it; without one everybody is a guest.
    pub jwt_secret: Option<String>,
    /// The core everything runs on.
    pub core: Option<usize>,
}

/// How large a cluster is.
#[derive(Copy, Clone, Debug)]
pub struct Size {
    /// Processes of `fanfare gateway`.
    pub gateways: usize,
    /// Processes of `fanfare fanout`.
    pub workers: usize,
    /// Processes of `fanfare presence`.
    pub presences: usize,
}

/// Servers that run. Ends when it is dropped.
pub struct Deployment {
    servers: Vec<Server>,
    /// Where clients connect.
    pub targets: Vec<SocketAddr>,
    directory: TempDir,
    settings: Settings,
}

struct Server {
    process: Process,
    child: std::process::Child,
    log: PathBuf,
}

impl Deployment {
    /// `fanfare standalone`.
    ///
    /// # Errors
    /// When it is not ready within a minute.
    pub fn standalone(settings: Settings) -> Result<Self> {
        let mut deployment = Self::empty(settings)?;
        let mut command = deployment.role("standalone")?;
        let server = deployment.start("standalone", &mut command)?;
        deployment.until_ready(server)?;
        let target = deployment.listening(server)?;
        deployment.targets.push(target);
        Ok(deployment)
    }

    /// nats-server, redis-server and the roles on them.
    ///
    /// # Errors
    /// When a server is not installed, or anything is not ready within a minute.
    pub fn cluster(size: Size, settings: Settings) -> Result<Self> {
        let mut deployment = Self::empty(settings)?;
        let (nats, redis) = (free_port()?, free_port()?);
        let configuration = deployment.directory.path().join("nats.conf");
        let store = deployment.directory.path().join("nats");
        fs::write(
            &configuration,
            format!(
                "listen: \"127.0.0.1:{nats}\"\nmax_payload: 16777216\njetstream {{ store_dir: \"{}\" }}\n",
                store.display()
            ),
        )?;
        let program = program("nats-server-current").or_else(|_| program("nats-server"))?;
        deployment.start("nats", Command::new(program).arg("-c").arg(configuration))?;
        let mut command = Command::new(self::program("redis-server")?);
        command
            .args(["--bind", "127.0.0.1", "--port", &redis.to_string()])
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(deployment.directory.path());
        deployment.start("redis", &mut command)?;
        for port in [nats, redis] {
            until("a server listens", || {
                Ok(TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(()))
            })?;
        }
        let roles = [
            ("presence", "presence", size.presences),
            ("fanout", "worker", size.workers),
            ("gateway", "gateway", size.gateways),
        ];
        let mut started = Vec::new();
        for (role, name, count) in roles {
            for number in 0..count {
                let mut command = deployment.role(role)?;
                command
                    .env("NATS_URL", format!("nats://127.0.0.1:{nats}"))
                    .env("REDIS_URL", format!("redis://127.0.0.1:{redis}"));
                let server = deployment.start(&format!("{name}{number}"), &mut command)?;
                started.push((role, server));
            }
        }
        for (role, server) in started {
            deployment.until_ready(server)?;
            if role == "gateway" {
                let target = deployment.listening(server)?;
                deployment.targets.push(target);
            }
        }
        deployment.until_settled(size.workers)?;
        Ok(deployment)
    }

    /// The processes, to be measured.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        self.servers.iter().map(|server| server.process.clone()).collect()
    }

    pub(crate) fn empty(settings: Settings) -> Result<Self> {
        let directory = TempDir::with_prefix("fanfare-bench-")?;
        running().directories.push(directory.path().to_owned());
        Ok(Self {
            servers: Vec::new(),
            targets: Vec::new(),
            directory,
            settings,
        })
    }

    /// Writes a file that is gone with the deployment.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let file = self.directory.path().join(name);
        fs::write(&file, text)?;
        Ok(file)
    }

    /// This program as a role, on free ports, without limits.
    fn role(&self, role: &str) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(role).current_dir(self.directory.path());
        let any = "127.0.0.1:0";
        for (name, value) in [
            ("FANFARE_GATEWAY__LISTEN", any),
            ("FANFARE_GATEWAY__GRPC_LISTEN", any),
            ("FANFARE_FANOUT__GRPC_LISTEN", any),
            ("FANFARE_FANOUT__HTTP_LISTEN", any),
            ("FANFARE_PRESENCE__GRPC_LISTEN", any),
            ("FANFARE_ADMIN__LISTEN", any),
            ("FANFARE_ROOMS__PUBLIC", "*"),
            ("FANFARE_LIMITS__EVENTS", "0"),
            ("CORS_ORIGIN", "*"),
            ("RUST_LOG", "warn"),
            ("NO_COLOR", "1"),
        ] {
            command.env(name, value);
        }
        match &self.settings.jwt_secret {
            Some(secret) => command.env("FANFARE_AUTH__MODE", "jwt").env("JWT_SECRET", secret),
            None => command.env("FANFARE_AUTH__MODE", "guest"),
        };
        if let Some(config) = &self.settings.config {
            command.arg("--config").arg(fs::canonicalize(config)?);
        }
        for (key, value) in &self.settings.set {
            // Names of variables are all upper case, keys of the file are not.
            if key.chars().all(|character| !character.is_ascii_lowercase()) {
                command.env(key, value);
            } else {
                command.arg("--set").arg(format!("{key}={value}"));
            }
        }
        Ok(command)
    }

    /// Starts a process on the core of the settings; its number among the servers.
    pub(crate) fn start(&mut self, name: &str, command: &mut Command) -> Result<usize> {
        let log = self.directory.path().join(format!("{name}.log"));
        let file = File::create(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        running().processes.push(child.id());
        // Before it starts threads, which take the core over.
        if let Some(core) = self.settings.core {
            crate::procs::pin(Some(child.id()), core)?;
        }
        self.servers.push(Server {
            process: Process {
                name: name.to_owned(),
                pid: child.id(),
            },
            child,
            log,
        });
        Ok(self.servers.len() - 1)
    }

    /// The rest of the line of a server's log that begins so.
    pub(crate) fn line(&mut self, server: usize, prefix: &str) -> Result<String> {
        let server = &mut self.servers[server];
        until(prefix, || {
            let log = fs::read_to_string(&server.log)?;
            let found = log
                .split_inclusive('\n')
                .find_map(|line| line.strip_prefix(prefix)?.strip_suffix('\n'));
            if found.is_none() && server.child.try_wait()?.is_some() {
                bail!("{} has ended:\n{}", server.process.name, tail(&log));
            }
            Ok(found.map(|found| found.trim().to_owned()))
        })
        .with_context(|| {
            let log = fs::read_to_string(&server.log).unwrap_or_default();
            format!("{} wrote:\n{}", server.process.name, tail(&log))
        })
    }

    fn listening(&mut self, server: usize) -> Result<SocketAddr> {
        Ok(self.line(server, "fanfare listening on http://")?.parse()?)
    }

    fn admin(&mut self, server: usize) -> Result<SocketAddr> {
        let admin = self.line(server, "fanfare admin on ")?;
        Ok(admin.trim_start_matches("http://").parse()?)
    }

    fn until_ready(&mut self, server: usize) -> Result<()> {
        let admin = self.admin(server)?;
        until(&format!("{} is ready", self.servers[server].process.name), || {
            Ok(get(admin, "/readyz")
                .is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
                .then_some(()))
        })
    }

    /// Waits until every partition has its worker and none has moved for a second: events that are not stored are
    /// lost while one moves.
    fn until_settled(&mut self, workers: usize) -> Result<()> {
        let names: Vec<_> = (0..workers).map(|number| format!("worker{number}")).collect();
        let servers: Vec<_> = (0..self.servers.len())
            .filter(|server| names.contains(&self.servers[*server].process.name))
            .collect();
        let mut admins = Vec::new();
        for server in servers {
            admins.push(self.admin(server)?);
        }
        let mut last = (Instant::now(), Vec::new());
        until("the workers have shared the partitions out", || {
            let mut now = Vec::new();
            for admin in &admins {
                let metrics = get(*admin, "/metrics")?;
                let value = |name: &str| -> f64 {
                    metrics
                        .lines()
                        .filter(|line| line.starts_with(name))
                        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
                        .sum()
                };
                now.push((
                    value("fanfare_partitions_owned"),
                    value("fanfare_take_overs_total"),
                ));
            }
            let owned: f64 = now.iter().map(|(owned, _)| owned).sum();
            if now != last.1 || owned == 0.0 {
                last = (Instant::now(), now);
            }
            Ok((last.0.elapsed() > Duration::from_secs(2)).then_some(()))
        })
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        for server in self.servers.iter_mut().rev() {
            // It has ended, or ends now.
            let _ = server.child.kill();
            let _ = server.child.wait();
            running().processes.retain(|pid| *pid != server.child.id());
        }
        running()
            .directories
            .retain(|directory| directory != self.directory.path());
    }
}

/// Ends everything that runs, when this process is asked to end: Drop does not run then.
pub(crate) fn end_with_this_process() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                use tokio::signal::unix::{SignalKind, signal};
                let (Ok(mut interrupt), Ok(mut terminate)) =
                    (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
                else {
                    return;
                };
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                let running = running();
                for pid in &running.processes {
                    if let Some(pid) = rustix::process::Pid::from_raw(*pid as i32) {
                        // It may have ended already.
                        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                    }
                }
                for directory in &running.directories {
                    // Whoever writes there has been killed; what is left then is for the system to clean.
                    let _ = fs::remove_dir_all(directory);
                }
                std::process::exit(130);
            });
        })?;
    Ok(())
}

/// A process that ends together with this one, however that is asked to end.
pub(crate) fn ends_with_this_process(pid: u32) {
    running().processes.push(pid);
}

fn running() -> MutexGuard<'static, Running> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// A program from `PATH`, or from the tools of the checkout this one was built in.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), tools])
        .map(|directory| directory.join(name))
        .find(|file| file.exists())
        .with_context(|| format!("{name} is not installed"))
}

pub(crate) fn until<T>(what: &str, mut found: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + START;
    loop {
        if let Some(found) = found()? {
            return Ok(found);
        }
        if Instant::now() > end {
            bail!("not within {START:?}: {what}");
        }
        #[expect(clippy::disallowed_methods, reason = "no runtime that this could block")]
        std::thread::sleep(PAUSE);
    }
}

fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(START))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn tail(log: &str) -> &str {
    let mut from = log.len().saturating_sub(SHOWN);
    while !log.is_char_boundary(from) {
        from += 1;
    }
    &log[from..]
}
