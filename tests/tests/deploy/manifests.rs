//! Renders the chart and hands the objects over as JSON.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;
use tests::servers::program;

use crate::root;

/// Current and the one before it.
pub(crate) const KUBERNETES: [&str; 2] = ["1.36", "1.37"];

/// What a values file makes of the chart.
#[derive(Deserialize)]
pub(crate) struct Rendered {
    pub(crate) objects: Vec<Value>,
    /// Against the schemas of Kubernetes.
    pub(crate) mistakes: Vec<String>,
}

impl Rendered {
    pub(crate) fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.objects.iter().filter(move |object| object["kind"] == kind)
    }

    /// An object by kind and the end of its name.
    pub(crate) fn one(&self, kind: &str, name: &str) -> Result<&Value> {
        let fits =
            |object: &&Value| object["kind"] == kind && text(&object["metadata"]["name"]).ends_with(name);
        self.objects
            .iter()
            .find(fits)
            .with_context(|| format!("no {kind} …{name}"))
    }
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub(crate) fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The values files that stand for how the chart is used.
pub(crate) fn values_files() -> Result<Vec<PathBuf>> {
    crate::files(&root().join("helm/fanfare/ci"), &["yaml"])
}

/// Runs helm on the chart.
pub(crate) fn helm(command: &str, arguments: &[&str]) -> Result<Output> {
    let output = Command::new(program("helm")?)
        .arg(command)
        .args(arguments)
        .current_dir(root())
        .output()?;
    Ok(output)
}

/// What a values file, and settings over it (`--set`), make of the chart, held against the schemas of `versions`.
pub(crate) fn render(values: &Path, set: &[&str], versions: &[&str]) -> Result<Rendered> {
    let values = values.to_string_lossy();
    let mut arguments = vec![
        "test",
        "helm/fanfare",
        "--namespace",
        "realtime",
        "--values",
        &values,
    ];
    arguments.extend(set.iter().flat_map(|set| ["--set", set]));
    let output = helm("template", &arguments)?;
    ensure!(
        output.status.success(),
        "helm template --values {values}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_str(&python(versions, &output.stdout)?)?)
}

/// YAML as JSON.
pub(crate) fn yaml(text: &str) -> Result<Value> {
    let read: Rendered = serde_json::from_str(&python(&[], text.as_bytes())?)?;
    read.objects.into_iter().next().context("an empty file")
}

fn python(versions: &[&str], input: &[u8]) -> Result<String> {
    let python = tools().join("venv/bin/python");
    let script = root().join("tests/tests/deploy/manifests.py");
    filter(Command::new(python).arg(script).args(versions), input)
}

/// What is wrong with custom resources, by their schemas.
pub(crate) fn custom_mistakes(objects: &[&Value]) -> Result<Vec<String>> {
    let script = root().join("tests/tests/deploy/crds.mjs");
    let mut node = Command::new(program("node")?);
    node.arg(script).arg(tools());
    let answer = filter(&mut node, &serde_json::to_vec(objects)?)?;
    Ok(serde_json::from_str(&answer)?)
}

fn tools() -> PathBuf {
    root().join("target/tools/deploy")
}

/// What a program makes of its input.
fn filter(command: &mut Command, input: &[u8]) -> Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{command:?}: run tests/deps.sh"))?;
    let mut stdin = child.stdin.take().context("stdin is piped")?;
    // They read all of it before they write.
    stdin.write_all(input)?;
    drop(stdin);
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// The text of a file of the chart.
pub(crate) fn chart_file(name: &str) -> Result<String> {
    let path = root().join("helm/fanfare").join(name);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}
