use std::{fs, net::SocketAddr, thread, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};
use tests::{Cluster, JWT_SECRET, Role, RoundRobin, Size, Standalone, browser, until};

const SIZE: Size = Size {
    nats: tests::servers::NatsVersion::Current,
    gateways: 2,
    workers: 2,
    presence: 1,
};
const PASSWORD: &str = "open sesame";
/// Of the password, by bcrypt with a cost of 4.
const HASH: &str = "$2a$04$nIclaqHa6vs.GcV3lL0StuQFkxpFNV.mckSMIzZ5YduxEIhyj641W";
const OPENED: Duration = Duration::from_secs(60);

#[test]
fn two_browsers_on_two_gateways() -> Result<()> {
    Cluster::run(SIZE, &[], |cluster| {
        cluster.until_settled()?;
        let urls: Vec<_> = cluster.addresses()?.iter().map(url).collect();
        let settings = [
            ("FANFARE_GATEWAYS", urls.join(",")),
            ("JWT_SECRET", JWT_SECRET.to_owned()),
        ];
        let settings: Vec<_> = settings
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let first = urls.first().context("there are two")?;
        browser("cluster", first, &settings)
    })
}

#[test]
fn a_rolling_restart_while_people_type() -> Result<()> {
    Cluster::run(SIZE, &[], |cluster| {
        cluster.until_settled()?;
        let balancer = RoundRobin::start(cluster.addresses()?)?;
        let directory = tempfile::tempdir()?;
        let (ready, restarted) = (directory.path().join("ready"), directory.path().join("restarted"));
        let place = directory.path().to_string_lossy().into_owned();
        let url = balancer.url.clone();
        thread::scope(|scope| {
            let typing = scope.spawn(move || {
                browser(
                    "rolling",
                    &url,
                    &[("DIRECTORY", &place), ("JWT_SECRET", JWT_SECRET)],
                )
            });
            let replaced = until("both people are there", OPENED, || {
                ensure!(!typing.is_finished(), "the browser has ended");
                Ok(ready.exists())
            })
            .and_then(|()| replace_every_role(cluster));
            // Also after a failure: whoever types would type on.
            fs::write(&restarted, "")?;
            typing
                .join()
                .map_err(|_| anyhow!("the browser's thread panicked"))??;
            replaced
        })
    })
}

/// The official page of `@socket.io/admin-ui`, signed in at one gateway, shows what is at both and acts there.
#[test]
fn the_admin_page_shows_the_cluster_and_acts_on_it() -> Result<()> {
    let settings = [
        ("FANFARE_ADMIN_UI__USERNAME", "ada"),
        ("FANFARE_ADMIN_UI__PASSWORD", HASH),
    ];
    Cluster::run(SIZE, &settings, |cluster| {
        cluster.until_settled()?;
        let urls: Vec<_> = cluster.addresses()?.iter().map(url).collect();
        let gateways = urls.join(",");
        let settings = [
            ("FANFARE_GATEWAYS", gateways.as_str()),
            ("JWT_SECRET", JWT_SECRET),
            ("ADMIN_PASSWORD", PASSWORD),
        ];
        browser("admin", urls.first().context("there are two")?, &settings)
    })
}

#[test]
fn the_admin_page_may_only_look() -> Result<()> {
    let settings = [
        ("FANFARE_ADMIN_UI__USERNAME", "ada"),
        ("FANFARE_ADMIN_UI__PASSWORD", HASH),
        ("FANFARE_ADMIN_UI__READONLY", "true"),
        ("CORS_ORIGIN", "*"),
    ];
    let server = Standalone::start(&settings)?;
    let settings = [("JWT_SECRET", JWT_SECRET), ("ADMIN_PASSWORD", PASSWORD)];
    browser("admin_readonly", &server.url, &settings)
        .with_context(|| format!("the server wrote:\n{}", server.output()))?;
    server.stop()
}

/// One process after the other; gateways come back where they were.
fn replace_every_role(cluster: &mut Cluster) -> Result<()> {
    for _ in 0..SIZE.workers {
        cluster.add(Role::Worker)?;
        cluster.until_ready()?;
        cluster.workers.remove(0).stop()?;
        cluster.until_owned()?;
    }
    for _ in 0..SIZE.presence {
        cluster.add(Role::Presence)?;
        cluster.until_ready()?;
        cluster.presence.remove(0).stop()?;
    }
    for _ in 0..SIZE.gateways {
        let gateway = cluster.gateways.remove(0);
        let address = gateway.address()?.to_string();
        gateway.stop()?;
        cluster.add_with(Role::Gateway, &[("FANFARE_GATEWAY__LISTEN", &address)])?;
        cluster.until_ready()?;
    }
    Ok(())
}

fn url(address: &SocketAddr) -> String {
    format!("http://{address}")
}
