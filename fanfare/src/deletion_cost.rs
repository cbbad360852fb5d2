//! `fanfare gateway deletion-cost`: tells Kubernetes how many connections a pod has, so that scaling down takes the pods
//! with the fewest. Runs beside a gateway; without it nothing but that choice is worse.

use std::{fs, path::Path, process::ExitCode, time::Duration};

use anyhow::{Context, ensure};
use calls::{Http, Trust};
use config::Role;
use lifecycle::{Tasks, stop_signal};

use crate::{
    admin::{ask, here},
    cli::{DeletionCost, Settings},
};

/// Whose value `ReplicaSet` controllers compare: pods with a lower one are deleted first.
const ANNOTATION: &str = "controller.kubernetes.io/pod-deletion-cost";
const TIMEOUT: Duration = Duration::from_secs(5);
/// Of the API server's answer, which is the whole pod and of no interest.
const ANSWER: usize = 1024 * 1024;

/// Writes the annotation until it is stopped. What fails is tried again the next time.
#[expect(clippy::print_stderr, reason = "a command line speaks to people")]
pub(crate) fn run(settings: &Settings, options: &DeletionCost) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(write_until_stopped(settings, options)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fanfare: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "a command line speaks to people")]
async fn write_until_stopped(settings: &Settings, options: &DeletionCost) -> anyhow::Result<()> {
    let stop = stop_signal(&Tasks::new())?;
    let admin = match &options.admin {
        Some(admin) => admin.clone(),
        None => here(settings.read(Role::Gateway)?.config.admin.listen).to_string(),
    };
    let pod = Pod::new(options)?;
    let mut known = None;
    while !stop.is_cancelled() {
        let told = async {
            let connections = connections(&ask(&admin, "GET", "/metrics")?);
            if known != Some(connections) {
                pod.annotate(connections).await?;
                known = Some(connections);
            }
            anyhow::Ok(())
        };
        if let Err(error) = told.await {
            eprintln!("fanfare: {error:#}");
        }
        // Not at all once it is stopped.
        let _ = stop.run_until_cancelled(tokio::time::sleep(*options.every)).await;
    }
    Ok(())
}

/// Those that would be closed, however many namespaces each is in.
fn connections(metrics: &str) -> u64 {
    let mut lines = metrics.lines();
    let count = lines.find_map(|line| {
        let (_, count) = line.strip_prefix("fanfare_connections{")?.rsplit_once(' ')?;
        count.parse().ok()
    });
    count.unwrap_or(0)
}

/// This pod, at the API server.
struct Pod<'a> {
    http: Http,
    url: http::Uri,
    account: &'a Path,
}

impl<'a> Pod<'a> {
    fn new(options: &'a DeletionCost) -> anyhow::Result<Self> {
        let DeletionCost {
            api, namespace, pod, ..
        } = options;
        let url = format!(
            "{}/api/v1/namespaces/{namespace}/pods/{pod}",
            api.trim_end_matches('/')
        );
        let authority = options.account.join("ca.crt");
        let trust = Trust::of(
            "--account",
            Some(&authority)
                .filter(|path| path.exists())
                .map(|path| path.as_path()),
            std::iter::once(api.as_str()),
        );
        Ok(Self {
            http: Http::new(trust, TIMEOUT)?,
            url: calls::uri("--api", &url)?,
            account: &options.account,
        })
    }

    async fn annotate(&self, connections: u64) -> anyhow::Result<()> {
        // Kubernetes renews it, so it is read each time.
        let token =
            fs::read_to_string(self.account.join("token")).context("the token of the service account")?;
        let bearer = http::HeaderValue::try_from(format!("Bearer {}", token.trim()))?;
        let cost = i32::try_from(connections).unwrap_or(i32::MAX).to_string();
        let patch = serde_json::json!({"metadata": {"annotations": {ANNOTATION: cost}}});
        let headers = [
            (http::header::AUTHORIZATION, bearer),
            (
                http::header::CONTENT_TYPE,
                http::HeaderValue::from_static("application/merge-patch+json"),
            ),
        ];
        let body = serde_json::to_vec(&patch)?.into();
        let (status, _) = self.http.patch(&self.url, &headers, body, ANSWER).await?;
        ensure!(status.is_success(), "the API server answers {status}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_count_once_however_many_namespaces_they_are_in() {
        let metrics = "# TYPE fanfare_connections gauge\n\
            fanfare_connections{environment=\"a\"} 40\n\
            socket_active_connections{environment=\"a\",namespace=\"/\"} 3\n\
            socket_active_connections{environment=\"a\",namespace=\"/chat\"} 40\n";
        assert_eq!(connections(metrics), 40);
        assert_eq!(connections(""), 0);
    }
}
