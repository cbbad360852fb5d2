use prometheus::{IntCounterVec, IntGauge, Opts, Registry};
use publisher::redis_emitter::Refusal;

/// Why nothing came of a message.
#[derive(Copy, Clone, Debug)]
pub(super) enum Lost {
    /// As it was read.
    Refused(Refusal),
    /// For application code on servers.
    Ignored,
    /// Volatile, and another worker may have sent it.
    Late,
    /// Too much was waiting.
    Overflow,
    /// The bus or a gateway did not answer.
    Unavailable,
}

const LOST: [Lost; 7] = [
    Lost::Refused(Refusal::Malformed),
    Lost::Refused(Refusal::Invalid),
    Lost::Refused(Refusal::TooLarge),
    Lost::Ignored,
    Lost::Late,
    Lost::Overflow,
    Lost::Unavailable,
];

impl Lost {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Refused(Refusal::Malformed) => "malformed",
            Self::Refused(Refusal::Invalid) => "invalid",
            Self::Refused(Refusal::TooLarge) => "too_large",
            Self::Ignored => "ignored",
            Self::Late => "late",
            Self::Overflow => "overflow",
            Self::Unavailable => "unavailable",
        }
    }
}

/// What was done for a message.
#[derive(Copy, Clone, Debug)]
pub(super) enum Kind {
    Emit,
    Join,
    Leave,
    Disconnect,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Emit => "emit",
            Self::Join => "join",
            Self::Leave => "leave",
            Self::Disconnect => "disconnect",
        }
    }
}

/// The bridge's families. Labels come from closed sets.
#[derive(Clone, Debug)]
pub struct Metrics {
    done: IntCounterVec,
    lost: IntCounterVec,
    bridging: IntGauge,
}

impl Metrics {
    /// Makes the families and puts them into `registry`, which adds the labels that all share.
    ///
    /// # Errors
    /// When a family of the same name is there already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            done: IntCounterVec::new(
                Opts::new(
                    "fanfare_redis_emitter_messages_total",
                    "Messages of Redis emitters that were carried out, by kind: emit, join, leave, disconnect",
                ),
                &["kind"],
            )?,
            lost: IntCounterVec::new(
                Opts::new(
                    "fanfare_redis_emitter_lost_total",
                    "Messages of Redis emitters that nothing came of, by reason: malformed, invalid (names), too_large, ignored (for servers' code), late (volatile, at a hand-over), overflow, unavailable",
                ),
                &["reason"],
            )?,
            bridging: IntGauge::new(
                "fanfare_redis_emitter_bridging",
                "1 while this worker is the one that carries out what Redis emitters publish",
            )?,
        };
        // There from the start, so that a first one is an increase.
        for kind in [Kind::Emit, Kind::Join, Kind::Leave, Kind::Disconnect] {
            metrics.done.with_label_values(&[kind.name()]);
        }
        for lost in LOST {
            metrics.lost.with_label_values(&[lost.reason()]);
        }
        registry.register(Box::new(metrics.done.clone()))?;
        registry.register(Box::new(metrics.lost.clone()))?;
        registry.register(Box::new(metrics.bridging.clone()))?;
        Ok(metrics)
    }

    pub(super) fn done(&self, kind: Kind) {
        self.done.with_label_values(&[kind.name()]).inc();
    }

    pub(super) fn lost(&self, lost: Lost, count: u64) {
        self.lost.with_label_values(&[lost.reason()]).inc_by(count);
    }

    pub(super) fn bridging(&self, is: bool) {
        self.bridging.set(is.into());
    }
}
