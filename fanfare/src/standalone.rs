//! `standalone`: the order of start and stop.

use config::Config;

use crate::{
    assembly::Assembly,
    process::{Process, bind},
};

#[expect(
    clippy::print_stdout,
    reason = "says where it listens, for people and for scripts"
)]
pub(crate) async fn run(process: Process) -> anyhow::Result<()> {
    let Process {
        config,
        tasks,
        readiness,
        registry,
        stop,
        commands: _,
        reloads,
    } = process;
    let open = readiness.condition("accepting clients");
    let listener = bind(config.gateway.listen, "the public address").await?;
    let public = listener.local_addr()?;
    let assembly = Assembly::start(&config, &tasks, &registry).await?;
    assembly.open(&config, listener, stop.clone())?;
    let gateway = assembly.gateway();
    reloads.add(move |config| gateway.reload(config).map_err(|error| error.to_string()));
    open.met();
    println!("fanfare listening on http://{public}");
    say_what_holds(&config);

    stop.cancelled().await;
    open.missing("stopping");
    assembly.stop().await;
    Ok(())
}

fn say_what_holds(config: &Config) {
    tracing::info!("standalone: everything is kept in memory and gone when the process ends");
    let auth = &config.auth;
    if !auth.has_keys() && config.issuers.is_empty() && auth.session_url.is_none() {
        tracing::info!("no JWT_SECRET: guests only, tokens are refused");
    }
}
