//! What every engine of [`App`] does. [`app`] is called from a test of the engine.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{App, AppError, Topic};

/// An application for tests, behind the engine under test, whose time for an answer is [`TIMEOUT`].
#[async_trait]
pub trait Stage: Send {
    /// The engine. Nobody handles anything yet.
    fn app(&self) -> Arc<dyn App>;

    /// From now on everything is answered with what `answer` says to it; after a pause of [`LATE`] where that is none.
    async fn answers(&mut self, answer: fn(Bytes) -> Option<Bytes>);

    /// From now on nobody handles anything.
    async fn nobody(&mut self);
}

/// How long an answer may take.
pub const TIMEOUT: Duration = Duration::from_millis(300);
/// How long one takes that is late.
pub const LATE: Duration = Duration::from_secs(5);

/// Panics where the engine does otherwise.
#[expect(clippy::panic, clippy::missing_panics_doc, reason = "a test suite")]
pub async fn app(stage: &mut dyn Stage) {
    let app = stage.app();
    let event = Topic::Event {
        namespace: "/chat",
        event: "a.b *",
    };
    let authorize = Topic::Authorize { namespace: "/" };
    let json = || Bytes::from_static(br#"{"type":"test"}"#);

    for topic in [event, authorize] {
        let outcome = app.ask(topic, json()).await;
        assert_eq!(outcome, Err(AppError::NoHandler), "{topic:?}: nobody is there");
    }

    stage.answers(Some).await;
    for topic in [event, authorize] {
        let outcome = app.ask(topic, json()).await;
        assert_eq!(
            outcome,
            Ok(json()),
            "{topic:?}: what is asked comes whole, and the answer too"
        );
    }
    stage.answers(|_| Some(Bytes::new())).await;
    assert_eq!(
        app.ask(event, json()).await,
        Ok(Bytes::new()),
        "nothing is an answer"
    );

    stage.answers(|_| None).await;
    let late = app.ask(event, json());
    match tokio::time::timeout(LATE, late).await {
        Ok(outcome) => assert_eq!(outcome, Err(AppError::Late)),
        Err(_) => panic!("an answer that is late must not be waited for"),
    }

    // One that is given up takes nobody along.
    let given_up = tokio::time::timeout(TIMEOUT / 10, app.ask(event, json())).await;
    assert!(given_up.is_err());
    stage.answers(Some).await;
    assert_eq!(app.ask(event, json()).await, Ok(json()));

    stage.nobody().await;
    assert_eq!(
        app.ask(event, json()).await,
        Err(AppError::NoHandler),
        "nobody is there any more"
    );
}
