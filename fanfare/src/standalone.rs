//! `standalone`: the order of start and stop.

use config::Config;

use crate::{
    assembly::Assembly,
    demo::Tokens,
    process::{Process, bind, scheme},
    reload::{API_KEYS, POLICIES},
};

#[expect(
    clippy::print_stdout,
    reason = "says where it listens, for people and for scripts"
)]
pub(crate) async fn run(process: Process) -> anyhow::Result<()> {
    let Process {
        mut config,
        tasks,
        readiness,
        registry,
        stop,
        commands: _,
        reloads,
        tracer,
    } = process;
    let open = readiness.condition("accepting clients");
    let listener = bind(config.gateway.listen, "the public address").await?;
    let public = listener.local_addr()?;
    let tokens = Tokens::of(&config);
    say_what_holds(&config, tokens.is_some());
    if let Some(tokens) = &tokens {
        tokens.accept(&mut config);
    }
    let assembly = Assembly::start(&config, &tasks, &registry, tracer).await?;
    assembly.open(&config, tokens.clone(), listener, stop.clone())?;
    let (gateway, keys) = (assembly.gateway(), assembly.keys());
    reloads.set(format!("{POLICIES}, {API_KEYS}"), move |config| {
        let renew = keys.renewed(&config.api).map_err(|error| error.to_string())?;
        let mut config = config.clone();
        if let Some(tokens) = &tokens {
            tokens.accept(&mut config);
        }
        gateway.reload(&config).map_err(|error| error.to_string())?;
        renew();
        Ok(())
    });
    open.met();
    println!("fanfare listening on {}://{public}", scheme(&config));

    stop.cancelled().await;
    open.missing("stopping");
    assembly.stop().await;
    Ok(())
}

fn say_what_holds(config: &Config, tokens: bool) {
    tracing::info!("standalone: everything is kept in memory and gone when the process ends");
    let auth = &config.auth;
    if tokens {
        tracing::info!("no JWT_SECRET: anybody may come in, as a guest or by a token that the page gets");
    } else if !auth.has_keys() && config.issuers.is_empty() && auth.session_url.is_none() {
        tracing::info!("no JWT_SECRET: tokens are refused");
    }
}
