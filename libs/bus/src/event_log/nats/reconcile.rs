use std::time::Duration;

use async_nats::{
    Client,
    jetstream::{
        Context,
        context::{CreateStreamErrorKind, GetStreamErrorKind},
        stream::{Config, DiscardPolicy, Info, RetentionPolicy},
    },
};

use super::{NatsLogConfig, StorageType};
use crate::subjects;

/// How long a deduplication key is remembered; the port asks for two minutes at least.
const DEDUP: Duration = Duration::from_secs(120);
/// JetStream's code for "stream not found".
const NOT_FOUND: u64 = 10059;
/// JetStream's code for "stream name already in use": somebody else was faster.
const IN_USE: u64 = 10058;

/// Why the log cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It does not answer; trying again may help.
    #[error("{0}")]
    Unavailable(String),
    /// The server has no JetStream.
    #[error("JetStream is off: start nats-server with -js, or with a section jetstream in its configuration")]
    NoJetStream,
    /// A stream is there with a setting that cannot be changed.
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
        /// How many the log has: "more" or "fewer" and by which stream that shows.
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

pub(super) async fn streams(context: &Context, config: &NatsLogConfig) -> Result<(), OpenError> {
    let partitions = config.partitions;
    // One more than there should be, and the last one: both tell of another number.
    if find(context, partitions).await?.is_some() {
        return Err(OpenError::Partitions {
            found: format!("more ({} is there)", subjects::log_stream(partitions)),
            wanted: partitions,
        });
    }
    let first = find(context, 0).await?;
    if first.is_some_and(|first| first.state.last_sequence > 0)
        && find(context, partitions.saturating_sub(1)).await?.is_none()
    {
        return Err(OpenError::Partitions {
            found: format!("fewer ({} is missing)", subjects::log_stream(partitions - 1)),
            wanted: partitions,
        });
    }
    for partition in 0..partitions {
        stream(context, partition, config).await?;
    }
    Ok(())
}

async fn find(context: &Context, partition: u16) -> Result<Option<Info>, OpenError> {
    match context.get_stream(subjects::log_stream(partition)).await {
        Ok(stream) => Ok(Some(stream.cached_info().clone())),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(error) if error.error_code().0 == NOT_FOUND => Ok(None),
            GetStreamErrorKind::JetStream(error) if error.code() == 503 => Err(OpenError::NoJetStream),
            _ => {
                // Without JetStream nobody answers at all.
                let text = error.to_string();
                if text.contains("no responders") {
                    return Err(OpenError::NoJetStream);
                }
                Err(OpenError::Unavailable(text))
            }
        },
    }
}

async fn stream(context: &Context, partition: u16, config: &NatsLogConfig) -> Result<(), OpenError> {
    let name = subjects::log_stream(partition);
    let wanted = Config {
        name: name.clone(),
        subjects: vec![subjects::log_subjects(partition)],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        discard: DiscardPolicy::Old,
        max_age: config.max_age,
        num_replicas: usize::from(config.replicas),
        duplicate_window: DEDUP.min(config.max_age),
        description: Some("Fanfare: events of rooms, in order".to_owned()),
        ..Config::default()
    };
    let found = match find(context, partition).await? {
        Some(found) => found,
        None => match context.create_stream(wanted.clone()).await {
            Ok(_) => return Ok(()),
            Err(error) => match error.kind() {
                CreateStreamErrorKind::JetStream(error) if error.error_code().0 == IN_USE => {
                    find(context, partition)
                        .await?
                        .ok_or_else(|| OpenError::Unavailable(format!("stream {name} comes and goes")))?
                }
                CreateStreamErrorKind::JetStream(error) => {
                    return Err(OpenError::Refused {
                        stream: name,
                        reason: error.to_string(),
                    });
                }
                _ => return Err(OpenError::Unavailable(error.to_string())),
            },
        },
    };
    let found = found.config;
    for (setting, found, wanted) in [
        (
            "storage",
            format!("{:?}", found.storage),
            format!("{:?}", wanted.storage),
        ),
        (
            "retention",
            format!("{:?}", found.retention),
            format!("{:?}", wanted.retention),
        ),
        ("subjects", found.subjects.join(" "), wanted.subjects.join(" ")),
    ] {
        if found != wanted {
            return Err(OpenError::Mismatch {
                stream: name,
                setting,
                found,
                wanted,
            });
        }
    }
    let fits = found.max_age == wanted.max_age
        && found.num_replicas == wanted.num_replicas
        && found.duplicate_window == wanted.duplicate_window
        && found.max_messages_per_subject <= 0;
    if fits {
        return Ok(());
    }
    tracing::info!(stream = name, "changing the stream to the configuration");
    let updated = context.update_stream(wanted).await;
    updated.map(drop).map_err(|error| OpenError::Refused {
        stream: name,
        reason: error.to_string(),
    })
}
