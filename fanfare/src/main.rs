//! One binary, a subcommand a role.

mod admin;
mod assembly;
mod cli;
mod cluster;
mod config_cmd;
mod deletion_cost;
mod demo;
mod doctor;
mod fanout;
mod gateway;
mod measured;
mod metrics;
mod notifications;
mod presence;
mod process;
mod publisher;
mod redis_emitter;
mod reload;
mod standalone;
mod token;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use cli::{Cli, Command, ConfigCommand, GatewayCommand, Settings};
use config::Role;
use process::Process;

fn main() -> ExitCode {
    let matches = Cli::command()
        .after_long_help(cli::settings_help())
        .mut_subcommands(|command| match command.get_name() {
            "standalone" | "gateway" | "fanout" | "presence" => command.after_long_help(cli::settings_help()),
            _ => command,
        })
        .get_matches();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    match cli.command {
        None | Some(Command::Standalone) => run(&cli.settings, Role::Standalone, async |process| {
            standalone::run(process).await
        }),
        Some(Command::Gateway {
            command: Some(GatewayCommand::Shed(shed)),
        }) => admin::shed(&cli.settings, &shed),
        Some(Command::Gateway {
            command: Some(GatewayCommand::Drain(drain)),
        }) => admin::drain(&cli.settings, &drain),
        Some(Command::Gateway {
            command: Some(GatewayCommand::DeletionCost(options)),
        }) => deletion_cost::run(&cli.settings, &options),
        Some(Command::Doctor(options)) => doctor::run(&cli.settings, &options),
        Some(Command::Probe(probe)) => admin::probe(&cli.settings, &probe),
        Some(Command::Gateway { command: None }) => run(&cli.settings, Role::Gateway, async |process| {
            gateway::run(process).await
        }),
        Some(Command::Fanout) => run(&cli.settings, Role::Fanout, async |process| {
            fanout::run(process).await
        }),
        Some(Command::Presence) => run(&cli.settings, Role::Presence, async |process| {
            presence::run(process).await
        }),
        Some(Command::Config(ConfigCommand::Check { role })) => config_cmd::check(&cli.settings, role),
        Some(Command::Config(ConfigCommand::Show { role })) => config_cmd::show(&cli.settings, role),
        Some(Command::Token(token)) => token::print(&token),
        Some(Command::Bench(bench)) => {
            let (set, config) = cli.settings.for_deployment();
            bench::cli::main(&bench, set, config)
        }
    }
}

/// Runs a role with its configuration.
fn run(
    settings: &Settings,
    role: Role,
    process: impl AsyncFnOnce(Process) -> anyhow::Result<()>,
) -> ExitCode {
    match settings.load(role) {
        Ok(loaded) => {
            let settings = settings.clone();
            process::main(role, loaded, Box::new(move || settings.read(role)), process)
        }
        Err(code) => code,
    }
}
