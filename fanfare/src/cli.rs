//! The command line.

use std::{fmt::Write, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand, ValueEnum, builder::NonEmptyStringValueParser};
use config::{Errors, Loaded, Role, settings::SETTINGS};
use jsonwebtoken::Algorithm;

/// A realtime edge that speaks the Socket.IO protocol.
#[derive(Parser)]
#[command(name = "fanfare", version)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) settings: Settings,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Args, Clone)]
pub(crate) struct Settings {
    /// TOML file with settings.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Sets one setting, over file and environment.
    #[arg(long, global = true, value_name = "KEY=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
    /// Public address, as --set gateway.listen=ADDRESS.
    #[arg(long, global = true, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Port of the public address, whatever its host; as WEBSOCKET_PORT.
    #[arg(long, global = true, conflicts_with = "listen")]
    port: Option<u16>,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// All roles in one process, in memory: nothing to install, nothing kept (the default).
    Standalone,
    /// The edge of a cluster: terminates clients.
    Gateway {
        #[command(subcommand)]
        command: Option<GatewayCommand>,
    },
    /// A fan-out worker of a cluster: reads the partitions it owns and delivers to the gateways.
    Fanout,
    /// The presence service of a cluster: keeps who is where in Redis.
    Presence,
    /// Asks a process of this machine, or another one, whether it is ready; exit code 1 when it is not. For container
    /// engines and scripts.
    Probe(Probe),
    /// Looks whether NATS, Redis, clocks, limits and certificates are what a role needs on this machine; exit code 1 when
    /// something is not.
    Doctor(Doctor),
    /// Checks or shows the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Mints a development token and prints it.
    Token(Token),
    /// Measures a server: one it starts itself, or those at --url.
    Bench(bench::cli::Bench),
}

#[derive(Subcommand)]
pub(crate) enum GatewayCommand {
    /// Asks a running gateway to close a share of its connections, spread over its drain window, so that their
    /// clients come back elsewhere: for new gateways to get their share.
    Shed(Shed),
    /// Asks a running gateway to send its clients to the others and end, as SIGTERM does.
    Drain(Drain),
    /// Tells Kubernetes the connections of the pod it runs in, again and again, so that scaling down takes the pods with
    /// the fewest (controller.kubernetes.io/pod-deletion-cost).
    DeletionCost(DeletionCost),
}

#[derive(Args)]
pub(crate) struct DeletionCost {
    /// How often, e.g. 30s.
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    pub(crate) every: humantime::Duration,
    /// The gateway's admin address; this machine's, at the configured port, without.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) admin: Option<String>,
    /// URL of the API server.
    #[arg(long, value_name = "URL", default_value = "https://kubernetes.default.svc")]
    pub(crate) api: String,
    /// Directory with token and ca.crt of the service account, which must be allowed to patch pods.
    #[arg(
        long,
        value_name = "DIRECTORY",
        default_value = "/var/run/secrets/kubernetes.io/serviceaccount"
    )]
    pub(crate) account: PathBuf,
    /// The pod's name.
    #[arg(long, env = "POD_NAME")]
    pub(crate) pod: String,
    /// The pod's namespace.
    #[arg(long, env = "POD_NAMESPACE")]
    pub(crate) namespace: String,
}

#[derive(Args)]
pub(crate) struct Doctor {
    /// For which role.
    #[arg(value_enum, default_value_t = RoleArg::Gateway)]
    pub(crate) role: RoleArg,
    /// After which time the load balancer in front of the gateways cuts an idle connection.
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    pub(crate) idle_timeout: humantime::Duration,
    /// Tells what it found as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct Drain {
    /// The gateway's admin address; this machine's, at the configured port, without.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) admin: Option<String>,
}

#[derive(Args)]
pub(crate) struct Probe {
    /// readyz, livez, or a whole URL (http://HOST:PORT/PATH) that must answer with success.
    #[arg(default_value = "readyz")]
    pub(crate) what: String,
    /// The process' admin address; without, the first role of this machine that answers at its configured port.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) admin: Option<String>,
    /// How long to go on asking, e.g. 30s.
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    pub(crate) within: humantime::Duration,
}

#[derive(Args)]
pub(crate) struct Shed {
    /// How many of a hundred connections.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub(crate) percent: u8,
    /// The gateway's admin address; this machine's, at the configured port, without.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) admin: Option<String>,
}

#[derive(Subcommand)]
pub(crate) enum ConfigCommand {
    /// Validates the configuration; exit code 2 and every mistake when it does not hold.
    Check {
        /// For which role.
        #[arg(default_value = "standalone")]
        role: RoleArg,
    },
    /// Prints the effective configuration, secrets masked.
    Show {
        /// For which role.
        #[arg(default_value = "standalone")]
        role: RoleArg,
    },
}

#[derive(Args)]
pub(crate) struct Token {
    /// User id.
    #[arg(long)]
    pub(crate) sub: String,
    /// Display name.
    #[arg(long)]
    pub(crate) username: Option<String>,
    /// admin, moderator, user or guest.
    #[arg(long, default_value = "user", value_parser = ["admin", "moderator", "user", "guest"])]
    pub(crate) role: String,
    /// A room, or pattern of rooms, that the user may join; may be given again.
    #[arg(long = "room")]
    pub(crate) rooms: Vec<String>,
    /// A permission; may be given again.
    #[arg(long = "permission")]
    pub(crate) permissions: Vec<String>,
    /// How long it holds, e.g. 30m, 1h, 7d.
    #[arg(long, default_value = "1h")]
    pub(crate) ttl: humantime::Duration,
    /// Before that it does not hold yet: so long from now.
    #[arg(long, value_name = "DURATION")]
    pub(crate) not_before: Option<humantime::Duration>,
    /// Who issues it (iss).
    #[arg(long)]
    pub(crate) issuer: Option<String>,
    /// Whom it is for (aud).
    #[arg(long)]
    pub(crate) audience: Option<String>,
    /// Another claim, the value JSON or else text; may be given again.
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) claims: Vec<(String, String)>,
    /// HS256, HS384, HS512, RS256 to RS512, PS256 to PS512, ES256, ES384 or EdDSA; what the key is for, without.
    #[arg(long)]
    pub(crate) alg: Option<Algorithm>,
    /// Names the key (kid).
    #[arg(long)]
    pub(crate) kid: Option<String>,
    /// File (PEM) with a private key that signs it in place of the secret; PKCS#8, for RSA PKCS#1 too.
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// Signs it (HMAC).
    #[arg(long, env = "JWT_SECRET", hide_env_values = true, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) secret: Option<String>,
}

#[derive(Copy, Clone, ValueEnum)]
pub(crate) enum RoleArg {
    Standalone,
    Gateway,
    Fanout,
    Presence,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Standalone => Self::Standalone,
            RoleArg::Gateway => Self::Gateway,
            RoleArg::Fanout => Self::Fanout,
            RoleArg::Presence => Self::Presence,
        }
    }
}

impl Settings {
    /// Settings and file, for the processes of a deployment.
    pub(crate) fn for_deployment(&self) -> (Vec<(String, String)>, Option<PathBuf>) {
        (self.set.clone(), self.config.clone())
    }

    /// The configuration of a role; every mistake is printed, and the exit code is 2 then.
    #[expect(clippy::print_stderr, reason = "a command line speaks to people")]
    pub(crate) fn load(&self, role: Role) -> Result<Loaded, ExitCode> {
        self.read(role).map_err(|errors| {
            eprintln!("{errors}");
            ExitCode::from(2)
        })
    }

    /// The configuration of a role, or every mistake in it.
    pub(crate) fn read(&self, role: Role) -> Result<Loaded, Errors> {
        let listen = self
            .listen
            .iter()
            .map(|address| ("gateway.listen".to_owned(), address.clone()));
        let port = self
            .port
            .map(|port| ("gateway.port".to_owned(), port.to_string()));
        let overrides = self.set.iter().cloned().chain(listen).chain(port).collect();
        Loaded::from_process(role, self.config.as_deref(), overrides)
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Every setting with its default and its variable.
pub(crate) fn settings_help() -> String {
    let mut help = String::from("Settings (key in the file, variable, default):\n");
    for setting in SETTINGS {
        let variable = match setting.legacy {
            Some(legacy) if legacy != setting.variable() => format!("{}, {legacy}", setting.variable()),
            _ => setting.variable(),
        };
        let default = setting.default_in(Role::Standalone);
        let default = if default.is_empty() {
            String::new()
        } else {
            format!(" [default: {default}]")
        };
        // Writing to a String does not fail.
        let _ = write!(
            help,
            "\n  {}\n  {variable}{default}\n          {}\n",
            setting.key, setting.doc
        );
    }
    help.push_str(
        "\n  [[namespaces]] in the file: pattern, connect_roles, emit_roles, emit_listed_only, public_rooms, join_rooms, volatile\n",
    );
    help.push_str(
        "  [[issuers]] in the file: issuer, audience, secret, previous_secret, public_keys, jwks_file, jwks_url\n",
    );
    help
}
