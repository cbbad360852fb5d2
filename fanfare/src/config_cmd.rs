//! `config check` and `config show`.

use std::process::ExitCode;

use crate::cli::{RoleArg, Settings};

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line speaks to people"
)]
pub(crate) fn check(settings: &Settings, role: RoleArg) -> ExitCode {
    match settings.load(role.into()) {
        Ok(loaded) => {
            for warning in loaded.warnings {
                eprintln!("warning: {warning}");
            }
            // Who has no clients has no business with their keys.
            let has_clients = matches!(role, RoleArg::Standalone | RoleArg::Gateway);
            let checks = [auth::check_files, app::schema::check_all];
            let problem = checks.iter().find_map(|check| check(&loaded.config).err());
            if let Some(error) = problem.filter(|_| has_clients) {
                eprintln!("{error}");
                return ExitCode::from(2);
            }
            println!("the configuration holds");
            ExitCode::SUCCESS
        }
        Err(code) => code,
    }
}

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line speaks to people"
)]
pub(crate) fn show(settings: &Settings, role: RoleArg) -> ExitCode {
    match settings.load(role.into()) {
        Ok(loaded) => {
            for warning in loaded.warnings {
                eprintln!("warning: {warning}");
            }
            print!("{}", loaded.config.to_toml_masked());
            ExitCode::SUCCESS
        }
        Err(code) => code,
    }
}
