use std::time::Duration;

use async_nats::{
    Client,
    jetstream::{
        self, Context, ErrorCode,
        context::{CreateStreamErrorKind, GetStreamErrorKind},
        stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType},
    },
};

use super::NatsLogConfig;
use crate::subjects;

/// How long a deduplication key is remembered; the port asks for two minutes at least.
const DEDUP: Duration = Duration::from_secs(120);
/// Why the log cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It does not answer; trying again may help.
    #[error("{0}")]
    Unavailable(String),
    /// The server has no JetStream.
    #[error("JetStream is off: start nats-server with -js, or with a section jetstream in its configuration")]
    NoJetStream,
    /// A stream is there with a setting that cannot be changed, or the server did not take it over.
    #[error("stream {stream} has {setting} {found}, wanted is {wanted}: that cannot be changed in place")]
    Mismatch {
        /// Which stream.
        stream: String,
        /// Which of its settings.
        setting: &'static str,
        /// What it is.
        found: String,
        /// What it should be.
        wanted: String,
    },
    /// The log was made with another number of partitions.
    #[error(
        "the log was made with {found} partitions, bus.partitions is {wanted}: rooms would be looked for in the wrong ones"
    )]
    Partitions {
        /// "more" or "fewer", and by which stream that shows.
        found: String,
        /// How many are configured.
        wanted: u16,
    },
    /// The server takes too small messages.
    #[error(
        "NATS takes messages of {found} bytes, {wanted} are needed (1.5 × the largest payload): set max_payload: {wanted} in nats-server's configuration, or lower gateway.max_payload_bytes"
    )]
    Payload {
        /// What it takes.
        found: usize,
        /// What is needed.
        wanted: usize,
    },
    /// The server refuses the streams.
    #[error("stream {stream}: {reason}")]
    Refused {
        /// Which stream.
        stream: String,
        /// The server's words.
        reason: String,
    },
}

/// CONTRACT section 6: the bus takes 1.5 × the largest payload.
pub(super) fn check_payload(client: &Client, config: &NatsLogConfig) -> Result<(), OpenError> {
    let (found, wanted) = (
        client.max_payload(),
        config.max_record_bytes.saturating_mul(3) / 2,
    );
    if found < wanted {
        return Err(OpenError::Payload { found, wanted });
    }
    Ok(())
}

pub(super) async fn streams(
    client: &Client,
    context: &Context,
    config: &NatsLogConfig,
) -> Result<(), OpenError> {
    let partitions = config.partitions;
    let find = async |partition| find(client, context, partition).await;
    if find(partitions).await?.is_some() {
        return Err(OpenError::Partitions {
            found: format!("more ({} is there)", subjects::log_stream(partitions)),
            wanted: partitions,
        });
    }
    // Streams are made in this order, and nothing is appended before all are there.
    let mut there = Vec::with_capacity(usize::from(partitions));
    for partition in 0..partitions {
        there.push(find(partition).await?);
    }
    if there.iter().flatten().any(|info| info.state.last_sequence > 0) {
        for (partition, there) in (0..partitions).zip(&mut there) {
            // Looked for again: somebody else may have made it after it was looked for and before the data was seen.
            if there.is_none() {
                *there = find(partition).await?;
            }
            if there.is_none() {
                return Err(OpenError::Partitions {
                    found: format!("fewer ({} is missing)", subjects::log_stream(partition)),
                    wanted: partitions,
                });
            }
        }
    }
    for (partition, there) in (0..partitions).zip(there) {
        let wanted = wanted(partition, config);
        let there = match there {
            Some(there) => there,
            None => match create(context, &wanted).await {
                // Somebody else may have been faster. A server of 2.9 then also says that subjects overlap.
                Err(error) => find(partition).await?.ok_or(error)?,
                Ok(made) => made,
            },
        };
        reconcile(context, there, wanted).await?;
    }
    Ok(())
}

fn wanted(partition: u16, config: &NatsLogConfig) -> Config {
    Config {
        name: subjects::log_stream(partition),
        subjects: vec![subjects::log_subjects(partition)],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        // A full store refuses entries rather than drop what is not read.
        discard: DiscardPolicy::New,
        max_age: config.max_age,
        max_bytes: -1,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_message_size: -1,
        num_replicas: usize::from(config.replicas),
        duplicate_window: DEDUP.min(config.max_age),
        description: Some("Fanfare: events of rooms, in order".to_owned()),
        ..Config::default()
    }
}

async fn find(client: &Client, context: &Context, partition: u16) -> Result<Option<Info>, OpenError> {
    let error = match context.get_stream(subjects::log_stream(partition)).await {
        Ok(stream) => return Ok(Some(stream.cached_info().clone())),
        Err(error) => error,
    };
    match error.kind() {
        GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
        // The account has none; a server that has none does not answer at all. One that starts does not either, but
        // says that it will have.
        GetStreamErrorKind::JetStream(error)
            if error.error_code() == ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT =>
        {
            Err(OpenError::NoJetStream)
        }
        GetStreamErrorKind::Request if !client.server_info().jetstream => Err(OpenError::NoJetStream),
        _ => Err(OpenError::Unavailable(error.to_string())),
    }
}

async fn create(context: &Context, wanted: &Config) -> Result<Info, OpenError> {
    match context.create_stream(wanted.clone()).await {
        Ok(stream) => Ok(stream.cached_info().clone()),
        Err(error) => Err(match error.kind() {
            CreateStreamErrorKind::JetStream(error) if is_final(&error) => OpenError::Refused {
                stream: wanted.name.clone(),
                reason: error.to_string(),
            },
            _ => OpenError::Unavailable(error.to_string()),
        }),
    }
}

/// Whether trying again would not help. A stream that is there, and could not be found, comes and goes.
fn is_final(error: &jetstream::Error) -> bool {
    error.code() != 503 && error.error_code() != ErrorCode::STREAM_NAME_EXIST
}

/// A setting that differs: its name, what it is, what it should be.
type Difference = (&'static str, String, String);

async fn reconcile(context: &Context, found: Info, mut wanted: Config) -> Result<(), OpenError> {
    // A single server of 2.9 takes any number on a change, and keeps one copy all the same.
    if wanted.num_replicas > 1 && found.cluster.is_none() {
        return Err(OpenError::Refused {
            stream: wanted.name,
            reason: format!(
                "num_replicas is {}, wanted is {}: NATS keeps copies in a cluster only, and this server is in none",
                found.config.num_replicas, wanted.num_replicas
            ),
        });
    }
    let found = found.config;
    // How large a stream may grow is the operator's: it refuses entries then, and drops none.
    wanted.max_bytes = found.max_bytes;
    let stream = wanted.name.clone();
    let mismatch = |(setting, found, wanted): Difference| OpenError::Mismatch {
        stream: stream.clone(),
        setting,
        found,
        wanted,
    };
    let fixed = differences([
        ("storage", &found.storage, &wanted.storage),
        ("retention", &found.retention, &wanted.retention),
        ("subjects", &found.subjects, &wanted.subjects),
        ("sealed", &found.sealed, &wanted.sealed),
        ("deny_purge", &found.deny_purge, &wanted.deny_purge),
    ]);
    if let Some(fixed) = fixed.into_iter().next() {
        return Err(mismatch(fixed));
    }
    let changes = changes(&found, &wanted);
    if changes.is_empty() {
        return Ok(());
    }
    let told: Vec<_> = changes
        .iter()
        .map(|(setting, found, wanted)| format!("{setting} from {found} to {wanted}"))
        .collect();
    let told = told.join(", ");
    tracing::info!(stream, "changing {told}");
    let updated = match context.update_stream(&wanted).await {
        Ok(updated) => updated,
        Err(error) => {
            return Err(match error.kind() {
                CreateStreamErrorKind::JetStream(error) if is_final(&error) => OpenError::Refused {
                    stream,
                    reason: format!("changing {told}: {error}"),
                },
                _ => OpenError::Unavailable(error.to_string()),
            });
        }
    };
    // An old server says nothing of what it does not know.
    match self::changes(&updated.config, &wanted).into_iter().next() {
        Some(ignored) => Err(mismatch(ignored)),
        None => Ok(()),
    }
}

/// What can be changed in place and differs.
fn changes(found: &Config, wanted: &Config) -> Vec<Difference> {
    // Servers say 0 or -1 for "no limit", as they were asked.
    let limit = |limit: i64| limit.max(0);
    let limits = [found, wanted].map(|config| {
        [
            limit(config.max_messages),
            limit(config.max_messages_per_subject),
            limit(config.max_message_size.into()),
        ]
    });
    differences([
        ("max_age", &found.max_age, &wanted.max_age),
        ("num_replicas", &found.num_replicas, &wanted.num_replicas),
        (
            "duplicate_window",
            &found.duplicate_window,
            &wanted.duplicate_window,
        ),
        ("discard", &found.discard, &wanted.discard),
        ("max_msgs", &limits[0][0], &limits[1][0]),
        ("max_msgs_per_subject", &limits[0][1], &limits[1][1]),
        ("max_msg_size", &limits[0][2], &limits[1][2]),
    ])
}

fn differences<const N: usize>(
    settings: [(&'static str, &dyn std::fmt::Debug, &dyn std::fmt::Debug); N],
) -> Vec<Difference> {
    settings
        .into_iter()
        .map(|(setting, found, wanted)| (setting, format!("{found:?}"), format!("{wanted:?}")))
        .filter(|(_, found, wanted)| found != wanted)
        .collect()
}
