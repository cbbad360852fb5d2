//! The page in Chromium, and its client module: against one server and on a cluster, on a network that is as it should
//! be and on one that is not. The programs lie in `tests/compat/browser`.

mod cluster;

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, ensure};
use tests::{Standalone, browser, build_page};

/// Nobody has configured keys: the page gets its users tokens.
const NO_KEYS: (&str, &str) = ("JWT_SECRET", "");

fn against_one_server(file: &str, settings: &[(&str, &str)]) -> Result<()> {
    let server = Standalone::start(&[settings, &[NO_KEYS]].concat())?;
    if let Err(error) = browser(file, &server.url, settings) {
        return Err(error.context(format!("the server wrote:\n{}", server.output())));
    }
    server.stop()
}

#[test]
fn people_chat() -> Result<()> {
    against_one_server("chat", &[])
}

#[test]
fn networks_that_are_not_as_they_should_be() -> Result<()> {
    against_one_server("away", &[])
}

#[test]
fn the_client_module_where_a_server_errs() -> Result<()> {
    build_page(tempfile::tempdir()?.path())?; // has the packages that it is built with
    against_one_server("client", &[])
}

#[test]
fn limits_are_counted_down() -> Result<()> {
    let few = [
        ("FANFARE_LIMITS__EVENTS", "12"),
        ("FANFARE_LIMITS__WINDOW_SECONDS", "6"),
    ];
    against_one_server("limit", &few)
}

#[test]
fn looks_and_accessibility() -> Result<()> {
    against_one_server("looks", &[])
}

/// What the binary serves is what the sources say.
#[test]
fn committed_page_is_what_its_sources_build() -> Result<()> {
    let built = tempfile::tempdir()?;
    build_page(built.path())?;
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../web/dist");
    ensure!(
        files(&committed)? == files(built.path())?,
        "web/dist is old: `npm run build` in web, and commit what it makes"
    );
    Ok(())
}

fn files(directory: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    entries
        .map(|entry| {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            Ok((name, fs::read(entry.path())?))
        })
        .collect()
}
