//! `subscribe`, `markNotificationRead`: in `/notifications`.

use std::sync::Arc;

use model::{ClientError, Offset, RoomName};
use notifications::{EVENT, Inbox, Notification};
use publisher::messages::stamp;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    Call, Input,
    caller::{Ask, Caller},
};
use crate::{
    publish::log_error,
    session::{Success, unavailable},
    transport::Step,
};

const MAX_ID: usize = 128;

/// `subscribe`. By request it tells what was missed and nothing later.
pub(crate) struct Subscribe {
    since: Option<u64>,
}

#[derive(Serialize)]
struct Subscribed {
    offset: Offset,
    unread: usize,
}

#[derive(Serialize)]
pub(crate) struct Missed {
    #[serde(flatten)]
    subscribed: Subscribed,
    notifications: Box<RawValue>,
}

impl Ask for Subscribe {
    type Answer = Missed;

    fn read(caller: &impl Caller, mut input: Input<'_>) -> Result<Self, ClientError> {
        let since = input.optional_offset("since");
        let (_, partition) = caller.core().notifications.place(&caller.user().id);
        if since.is_some_and(|since| since.partition != partition) {
            input.reject("since", "is not an offset of your notifications");
        }
        input.finish()?;
        Ok(Self {
            since: since.map(|since| since.seq),
        })
    }

    fn room(&self) -> Option<&RoomName> {
        None
    }

    fn run<C: Caller>(
        self,
        caller: &C,
    ) -> impl Future<Output = Result<Missed, ClientError>> + Send + 'static {
        let (core, user) = (Arc::clone(caller.core()), Arc::clone(caller.user()));
        async move {
            let inbox = core.notifications.inbox(&user.id).await?;
            let (_, partition) = core.notifications.place(&user.id);
            let seq = inbox.last_seq().max(self.since).unwrap_or(0);
            let missed = inbox.missed(self.since, u64::MAX).into_iter();
            let missed: Vec<String> = missed.map(|one| told(one, partition)).collect();
            Ok(Missed {
                subscribed: Subscribed {
                    offset: Offset { partition, seq },
                    unread: inbox.unread(),
                },
                // Each is an object we have written ourselves.
                notifications: RawValue::from_string(format!("[{}]", missed.join(","))).unwrap_or_default(),
            })
        }
    }
}

/// The argument of `newNotification`.
fn told(notification: &Notification, partition: u16) -> String {
    let seq = notification.seq().unwrap_or(0);
    stamp(&notification.args(), Offset { partition, seq })
}

/// What was missed, then the acknowledgement, then what comes live: who has the acknowledgement lacks nothing.
pub(super) fn subscribe(call: Call, input: Input<'_>) -> Step {
    let ask = match Subscribe::read(&call, input) {
        Ok(ask) => ask,
        Err(error) => return call.fail(error),
    };
    let user = &call.socket.user().id;
    // It is in its user's room from its first moment; held, it gets nothing live before this is answered.
    let Some(mut joining) = call.join(RoomName::of_user(user.as_str())) else {
        return Step::Done;
    };
    Step::Later(Box::pin(async move {
        let answer: Result<(Offset, Inbox), ClientError> = async {
            let partition = joining.room().partition();
            let mut seq = joining.confirmed().await.map_err(unavailable)?;
            if let Some(since) = ask.since.filter(|since| *since > seq) {
                // It has heard more elsewhere than this gateway. No client makes it believe in what is not there.
                let newest = call.core.publisher.log().last_seq(partition).await;
                seq = since.min(newest.map_err(log_error)?);
                let join = std::slice::from_mut(&mut joining);
                let caught_up = call.core.catch_up(join, &[seq]).await;
                caught_up.map_err(|_| unavailable("this gateway cannot catch up with its client"))?;
            }
            let inbox = call.core.notifications.inbox(&call.socket.user().id).await?;
            Ok((Offset { partition, seq }, inbox))
        }
        .await;
        let (offset, inbox) = match answer {
            Ok(answer) => answer,
            Err(error) => {
                drop(joining);
                return call.reply::<()>(&Err(error));
            }
        };
        let live = call.socket.hears_since.get().copied().unwrap_or(offset.seq);
        let value = Subscribed {
            offset,
            unread: inbox.unread(),
        };
        joining.release(|position| {
            let missed = inbox.missed(ask.since, live.min(offset.seq)).into_iter();
            let missed = missed.map(|one| {
                let args = told(one, offset.partition);
                call.event(EVENT, &args, position)
            });
            let ack = call.ack.map(|id| {
                let answer = Success {
                    status: "ok",
                    value: &value,
                };
                call.socket.ack_json(id, &answer)
            });
            missed.chain(ack).collect()
        });
    }))
}

/// `markNotificationRead`.
pub(crate) struct MarkNotification {
    id: String,
}

#[derive(Serialize)]
pub(crate) struct Unread {
    unread: usize,
}

impl Ask for MarkNotification {
    type Answer = Unread;

    fn read(_: &impl Caller, mut input: Input<'_>) -> Result<Self, ClientError> {
        let id = input.text("id", MAX_ID);
        let (id, ()) = input.both(id, Some(()))?;
        Ok(Self { id })
    }

    fn room(&self) -> Option<&RoomName> {
        None
    }

    fn run<C: Caller>(
        self,
        caller: &C,
    ) -> impl Future<Output = Result<Unread, ClientError>> + Send + 'static {
        let (core, user) = (Arc::clone(caller.core()), Arc::clone(caller.user()));
        async move {
            let unread = core.notifications.mark_read(&user.id, &self.id).await?;
            Ok(Unread { unread })
        }
    }
}
