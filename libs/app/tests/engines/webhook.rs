use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use app::{
    App, AppError, Authorizer, Client, ClientSettings, Question, Topic, Who, Wish,
    conformance::{self, LATE, Stage, TIMEOUT},
    webhook::WebhookApp,
};
use async_trait::async_trait;
use bytes::Bytes;
use config::{Config, Role, Secret};
use model::ErrorCode;

use crate::web::Web;

const EVENT: Topic<'_> = Topic::Event {
    namespace: "/",
    event: "order",
};

struct Hook(Web);

fn webhook(url: &str, change: impl FnOnce(&mut Config)) -> Arc<dyn App> {
    let mut config = Config::for_tests(Role::Standalone);
    config.app.webhook_url = Some(url.to_owned());
    config.app.timeout = TIMEOUT;
    change(&mut config);
    Arc::new(WebhookApp::from_config(&config).unwrap().unwrap())
}

#[async_trait]
impl Stage for Hook {
    fn app(&self) -> Arc<dyn App> {
        webhook(&self.0.url, |_| {})
    }

    async fn answers(&mut self, answer: fn(Bytes) -> Option<Bytes>) {
        self.0.answers(move |body| match answer(body) {
            Some(answer) => (200, answer, Duration::ZERO),
            None => (200, Bytes::new(), LATE),
        });
    }

    async fn nobody(&mut self) {
        self.0.says(404, "");
    }
}

#[tokio::test]
async fn conforms() {
    conformance::app(&mut Hook(Web::start().await)).await;
}

#[tokio::test]
async fn table_of_statuses() {
    let web = Web::start().await;
    let app = webhook(&web.url, |_| {});
    let failed = |error: &Result<Bytes, AppError>| error.as_ref().unwrap_err().is_passing();
    for (status, passes) in [
        (500, true),
        (502, true),
        (429, true),
        (408, true),
        (400, false),
        (301, false),
    ] {
        web.says(status, "{}");
        let outcome = app.ask(EVENT, Bytes::new()).await;
        assert_eq!(failed(&outcome), passes, "{status}: {outcome:?}");
    }
    for status in [200, 201, 202] {
        web.says(status, "{}");
        assert_eq!(app.ask(EVENT, Bytes::new()).await, Ok(Bytes::from_static(b"{}")));
    }
    web.says(404, "{}");
    assert_eq!(app.ask(EVENT, Bytes::new()).await, Err(AppError::NoHandler));
    let small = webhook(&web.url, |config| config.gateway.max_payload = 1024);
    web.answers(|_| (200, vec![b' '; 5000].into(), Duration::ZERO));
    assert!(matches!(
        small.ask(EVENT, Bytes::new()).await,
        Err(AppError::Rubbish(_))
    ));
    let gone = webhook("http://127.0.0.1:1/", |_| {});
    assert!(failed(&gone.ask(EVENT, Bytes::new()).await));
}

#[tokio::test]
async fn what_is_sent_is_signed() {
    let web = Web::start().await;
    web.says(200, "{}");
    let secret = |config: &mut Config| config.app.webhook_secret = Some(Secret::from("a secret".to_owned()));
    let signed = webhook(&web.url, secret);
    signed.ask(EVENT, Bytes::from_static(b"{\"a\":1}")).await.unwrap();
    let (headers, body) = web.got().remove(0);
    let signature = headers["fanfare-signature"].to_str().unwrap();
    let time: u64 = signature[2..].split_once(',').unwrap().0.parse().unwrap();
    assert_eq!(signature, calls::signature("a secret", time, &body));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!(now.abs_diff(time) < 60);
    assert_eq!(headers["content-type"], "application/json");

    webhook(&web.url, |_| {}).ask(EVENT, Bytes::new()).await.unwrap();
    assert!(
        !web.got()[0].0.contains_key("fanfare-signature"),
        "without a secret there is none"
    );
}

#[tokio::test]
async fn questions_go_where_they_belong() {
    let (events, authorize) = (Web::start().await, Web::start().await);
    events.says(200, "{}");
    authorize.says(200, "{}");
    let both = webhook(&events.url, |config| {
        config.app.authorize_url = Some(authorize.url.clone())
    });
    let question = Topic::Authorize { namespace: "/" };
    both.ask(question, Bytes::new()).await.unwrap();
    assert_eq!((events.got().len(), authorize.got().len()), (0, 1));
    webhook(&events.url, |_| {})
        .ask(question, Bytes::new())
        .await
        .unwrap();
    assert_eq!(events.got().len(), 1, "the one there is");
    let alone = webhook("", |config| {
        config.app.webhook_url = None;
        config.app.authorize_url = Some(authorize.url.clone());
    });
    assert_eq!(alone.ask(EVENT, Bytes::new()).await, Err(AppError::NoHandler));
}

fn client(app: Arc<dyn App>, at_a_time: usize) -> Client {
    Client::new(
        app,
        ClientSettings {
            timeout: TIMEOUT,
            at_a_time,
        },
    )
}

#[tokio::test]
async fn a_slow_event_leaves_the_others_their_turns() {
    let web = Web::start().await;
    web.answers(|body| match &body[..] {
        b"slow" => (200, Bytes::new(), LATE),
        _ => (200, Bytes::from_static(b"{\"ack\":[1]}"), Duration::ZERO),
    });
    let client = client(webhook(&web.url, |_| {}), 4);
    let slow = (0..20).map(|_| client.event("/", "slow", Bytes::from_static(b"slow")));
    let slow = futures_util::future::join_all(slow);
    let quick = async {
        tokio::task::yield_now().await;
        client.event("/", "quick", Bytes::from_static(b"quick")).await
    };
    let (slow, quick) = tokio::join!(slow, quick);
    assert!(
        slow.into_iter()
            .all(|outcome| matches!(outcome, Err(AppError::Late)))
    );
    assert_eq!(quick.unwrap().ack.len(), 1);
    let got = web.got().into_iter().filter(|(_, body)| &body[..] == b"slow");
    // Half of the turns; those of the first two come free when they are late.
    let count = got.count();
    assert!((2..=4).contains(&count), "{count}");
}

#[tokio::test]
async fn what_passes_is_tried_again_and_what_does_not_is_not() {
    let web = Web::start().await;
    let client = client(webhook(&web.url, |_| {}), 4);
    let failures = std::sync::atomic::AtomicU32::new(2);
    web.answers(move |_| {
        let left = failures.fetch_update(
            std::sync::atomic::Ordering::SeqCst,
            std::sync::atomic::Ordering::SeqCst,
            |left| left.checked_sub(1),
        );
        (if left.is_ok() { 503 } else { 200 }, Bytes::new(), Duration::ZERO)
    });
    client.event_until_done("/", "e", Bytes::new()).await.unwrap();
    assert_eq!(web.got().len(), 3);
    for (status, body) in [(404, ""), (400, ""), (200, "rubbish")] {
        web.says(status, body);
        client.event_until_done("/", "e", Bytes::new()).await.unwrap_err();
        assert_eq!(web.got().len(), 1, "{status}");
    }
    web.says(500, "");
    client.event_in_time("/", "e", Bytes::new()).await.unwrap_err();
    // A gateway that stops gives up what it still tries.
    let trying = client.event_until_done("/", "e", Bytes::new());
    let (given_up, ()) = tokio::join!(trying, async { client.stop() });
    assert_eq!(given_up.unwrap_err().attempts, 1);
}

#[tokio::test]
async fn who_may_is_asked_once_kept_and_denied_without_an_answer() {
    let web = Web::start().await;
    let app = webhook(&web.url, |_| {});
    let authorizer = Authorizer::new(app, vec![Wish::Join], TIMEOUT, 100);
    assert!(authorizer.decides(Wish::Join) && !authorizer.decides(Wish::Emit));
    let question = |room: &'static str| Question {
        action: Wish::Join,
        namespace: "/chat",
        room: Some(room),
        event: None,
        user: Who {
            id: "ada",
            username: "Ada",
            role: model::Role::User,
        },
    };
    web.says(200, r#"{"allow":true,"ttl":60}"#);
    let (one, two) = (question("one"), question("one"));
    let (first, second) = tokio::join!(authorizer.ask(&one), authorizer.ask(&two));
    assert!(first.unwrap().allow && second.unwrap().allow);
    let got = web.got();
    assert_eq!(got.len(), 1, "many ask once");
    assert_eq!(
        &got[0].1[..],
        br#"{"type":"authorize","action":"join","namespace":"/chat","room":"one","user":{"id":"ada","username":"Ada","role":"user"}}"#
    );
    assert!(authorizer.known(&question("one")).unwrap().allow);
    assert!(authorizer.known(&question("two")).is_none());
    web.says(200, r#"{"allow":false}"#);
    for _ in 0..2 {
        assert!(!authorizer.ask(&question("two")).await.unwrap().allow);
    }
    assert_eq!(web.got().len(), 2, "no ttl, not kept");
    for (status, body) in [
        (404, ""),
        (403, ""),
        (200, "[true]"),
        (200, "{}"),
        (200, ""),
        (500, ""),
    ] {
        web.says(status, body);
        let refused = authorizer.ask(&question("three")).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::Unavailable, "{status} {body}");
    }
    assert!(
        authorizer.ask(&question("one")).await.unwrap().allow,
        "what is known goes on to hold"
    );
}
