use std::{
    collections::HashMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::{Process, Standalone};

/// Which transports a stock client may use.
#[derive(Copy, Clone, Debug)]
pub enum Mode {
    /// WebSocket alone.
    Websocket,
    /// Long-polling alone.
    Polling,
    /// Long-polling first, then WebSocket, the clients' default.
    Upgrade,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Websocket => "websocket",
            Self::Polling => "polling",
            Self::Upgrade => "upgrade",
        }
    }
}

/// How long one client program may run.
const RUN: Duration = Duration::from_secs(240);
/// How long installing its packages may take.
const INSTALL: Duration = Duration::from_secs(600);

/// Runs a test file of `tests/compat` with Node.
///
/// # Errors
/// When Node or its packages cannot be had, or a test in the file fails: all it printed is told.
pub fn node(file: &str, url: &str, settings: &[(&str, &str)]) -> Result<()> {
    install_node_packages()?;
    let mut command = Command::new("node");
    command
        .arg(file)
        .current_dir(compat())
        .env("FANFARE_URL", url)
        .envs(settings.iter().copied());
    run(file, &mut command).map(drop)
}

/// Runs the essentials with the stock Python client.
///
/// # Errors
/// When Python or its packages cannot be had, or a scenario fails: all it printed is told.
pub fn python(server: &Standalone, mode: Mode) -> Result<()> {
    let mut command = Command::new(install_python_packages()?);
    command
        .args(["python/essentials.py", mode.name()])
        .current_dir(compat());
    command.env("FANFARE_URL", &server.url).envs(server.settings());
    run("python/essentials.py", &mut command).map(drop)
}

/// Runs one of the scenario files of Node against a server.
///
/// # Errors
/// As [`node`].
pub fn scenario(server: &Standalone, group: &str, mode: Mode) -> Result<()> {
    let mut settings: Vec<_> = server.settings().collect();
    settings.push(("FANFARE_TRANSPORT", mode.name()));
    node(&format!("node/{group}.test.mjs"), &server.url, &settings)
}

/// What Artillery counted, over the whole run.
#[derive(Debug)]
pub struct Counts(HashMap<String, u64>);

impl Counts {
    /// A counter by its name, 0 for one that was never counted up.
    #[must_use]
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or_default()
    }
}

/// Plays the short form of `bench/artillery.yml` with stock Artillery.
///
/// # Errors
/// When Node or Artillery cannot be had, or what the scenario ensures does not hold: all it printed is told.
pub fn artillery(url: &str) -> Result<Counts> {
    #[derive(Deserialize)]
    struct Report {
        aggregate: Aggregate,
    }
    #[derive(Deserialize)]
    struct Aggregate {
        counters: HashMap<String, u64>,
    }

    let directory = compat().join("artillery");
    install_locked(&directory)?;
    let scenario = compat().join("../../bench/artillery.yml");
    let home = tempfile::tempdir()?;
    let report = home.path().join("report.json");
    let mut command = Command::new("node");
    command
        .arg(directory.join("node_modules/artillery/bin/run"))
        .arg("run")
        .arg(scenario)
        .args(["--environment", "short", "--target", url, "--output"])
        .arg(&report)
        .current_dir(home.path())
        .env("HOME", home.path())
        .env("ARTILLERY_DISABLE_TELEMETRY", "true");
    run("bench/artillery.yml", &mut command)?;
    let report: Report = serde_json::from_slice(&fs::read(&report)?)?;
    Ok(Counts(report.aggregate.counters))
}

/// The browser: `CHROMIUM`, or where packages put it.
///
/// # Errors
/// When there is none.
fn chromium() -> Result<PathBuf> {
    let named = std::env::var_os("CHROMIUM").map(PathBuf::from);
    let usual = [
        "/usr/bin/chromium",
        "/usr/bin/chromium-browser",
        "/usr/bin/google-chrome",
    ]
    .map(PathBuf::from);
    named
        .into_iter()
        .chain(usual)
        .find(|path| path.exists())
        .context("no Chromium: install the package `chromium`, or name one in the variable CHROMIUM")
}

/// Runs a test file of `tests/compat/browser` against a server.
///
/// # Errors
/// When there is no Chromium, and as [`node`].
pub fn browser(file: &str, url: &str, settings: &[(&str, &str)]) -> Result<()> {
    let chromium = chromium()?;
    let chromium = chromium.to_string_lossy();
    let mut settings = settings.to_vec();
    settings.push(("CHROMIUM", &chromium));
    node(&format!("browser/{file}.test.mjs"), url, &settings)
}

/// Checks the types of the page's sources in `web`, and builds them into `to`.
///
/// # Errors
/// When Node or the packages cannot be had, or the sources hold mistakes: all that was printed is told.
pub fn build_page(to: &Path) -> Result<()> {
    let web = compat().join("../../web");
    // The compiler of the page is a program of the machine's own, an optional package.
    install_packages(&web, &[])?;
    let mut check = Command::new("node");
    check
        .args(["node_modules/typescript/bin/tsc", "--noEmit"])
        .current_dir(&web);
    run("tsc", &mut check)?;
    let mut build = Command::new("node");
    build.arg("build.mjs").arg(to).current_dir(&web);
    run("build.mjs", &mut build).map(drop)
}

/// Runs a program of `tests/compat` with Python, and answers what it printed.
///
/// # Errors
/// When Python or its packages cannot be had, or the program fails: all it printed is told.
pub fn python_program(file: &str, settings: &[(&str, &str)]) -> Result<String> {
    let mut command = Command::new(install_python_packages()?);
    command
        .arg(file)
        .current_dir(compat())
        .envs(settings.iter().copied());
    run(file, &mut command)
}

/// Tries with Schemathesis whether a server does what its OpenAPI document says, with a token, `without` some of its checks.
///
/// # Errors
/// When Python or Schemathesis cannot be had, or the server does something else: all it printed is told.
pub fn schemathesis(document: &str, token: &str, without: &[&str]) -> Result<String> {
    let python = install_python(&compat().join("schemathesis"))?;
    let home = tempfile::tempdir()?;
    let mut command = Command::new(python.with_file_name("schemathesis"));
    command
        .args(["run", document, "--no-color", "--continue-on-failure"])
        .args(["--exclude-checks", &without.join(",")])
        .args(["--max-examples", "20", "--seed", "1", "--header"])
        .arg(format!("Authorization: Bearer {token}"))
        .current_dir(home.path())
        .env("HOME", home.path());
    run("schemathesis", &mut command)
}

fn run(name: &str, command: &mut Command) -> Result<String> {
    let mut process = Process::start(name, command)?;
    let status = process.wait(RUN)?;
    ensure!(
        status.success(),
        "{name} ended with {status}:\n{}",
        process.output()
    );
    Ok(process.output())
}

/// Where the programs of the stock clients are.
#[must_use]
pub fn compat() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("compat")
}

/// Installs the packages of Node's programs, unless they are there.
///
/// # Errors
/// When npm fails.
pub fn install_node_packages() -> Result<()> {
    install_locked(&compat())
}

/// Installs what the lock file of a directory lists, there.
fn install_locked(directory: &Path) -> Result<()> {
    // None of the clients needs what is optional: code of the machine's own.
    install_packages(directory, &["--omit=optional"])
}

fn install_packages(directory: &Path, flags: &[&str]) -> Result<()> {
    let modules = directory.join("node_modules");
    installed(&directory.join("package-lock.json"), &modules, || {
        let mut npm = Command::new("npm");
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
            .args(flags)
            .current_dir(directory);
        install("npm ci (needs Node 20 or later)", &mut npm)
    })
}

/// Installs the packages of `tests/compat/requirements.txt`; answers the interpreter that has them.
///
/// # Errors
/// When Python or the packages cannot be had.
pub fn install_python_packages() -> Result<PathBuf> {
    install_python(&compat())
}

/// Installs what `requirements.txt` of a directory lists, there.
fn install_python(directory: &Path) -> Result<PathBuf> {
    let requirements = directory.join("requirements.txt");
    let venv = directory.join(".venv");
    let python = venv.join("bin/python");
    installed(&requirements, &venv, || {
        let create = "python3 -m venv (Debian: package python3-venv)";
        install(
            create,
            Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv),
        )?;
        let mut pip = Command::new(&python);
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "-r",
        ])
        .arg(&requirements);
        install("pip install -r requirements.txt", &mut pip)
    })?;
    Ok(python)
}

fn install(name: &str, command: &mut Command) -> Result<()> {
    let mut process = Process::start(name, command)?;
    let status = process.wait(INSTALL)?;
    ensure!(
        status.success(),
        "{name} ended with {status}:\n{}",
        process.output()
    );
    Ok(())
}

/// Installs unless what is in `place` was installed from this very `list`. Tests run as processes side by side, so
/// one does it while the others wait for its lock.
fn installed(list: &Path, place: &Path, install: impl FnOnce() -> Result<()>) -> Result<()> {
    let wanted = fs::read(list)?;
    let stamp = place.join(".installed-from");
    let lock = File::create(list.with_extension("lock"))?;
    lock.lock()?;
    if fs::read(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    install()?;
    fs::write(&stamp, wanted)?;
    Ok(())
}
