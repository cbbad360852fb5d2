//! What every engine of [`Signals`] must do.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use model::TraceContext;

use super::{poll_once, soon, unique};
use crate::{Signals, SignalsError, Subscription};

/// Runs every check on an engine of its own from `make`, which may be the same one each time.
///
/// # Panics
/// When the engine does not conform.
pub async fn signals(make: impl AsyncFn() -> Arc<dyn Signals>) {
    tokio::join!(
        async { one_publisher_is_heard_in_order(&*make().await).await },
        async { only_who_listens_hears(&*make().await).await },
        async { a_trace_goes_beside_its_message(&*make().await).await },
        async { a_star_is_one_token(&*make().await).await },
        async { an_arrow_is_the_rest(&*make().await).await },
        async { one_of_a_queue_gets_it(&*make().await).await },
        async { a_request_is_answered(&*make().await).await },
        async { nobody_to_answer_is_known_at_once(&*make().await).await },
        async { an_answer_that_does_not_come_is_not_waited_for(&*make().await).await },
        async { a_dropped_subscription_has_ended(&*make().await).await },
        async { waiting_can_be_given_up(&*make().await).await },
        async { who_does_not_keep_up_loses_the_newest(&*make().await).await },
    );
}

fn subject() -> String {
    format!("conformance.{:x}", unique())
}

fn text(text: impl ToString) -> Bytes {
    Bytes::from(text.to_string())
}

async fn listen(bus: &dyn Signals, subject: &str) -> Box<dyn Subscription> {
    soon(bus.subscribe(subject, None)).await.unwrap()
}

/// Everything up to the message `end`, which is left out.
async fn until(subscription: &mut dyn Subscription, end: &str) -> Vec<String> {
    let mut heard = Vec::new();
    loop {
        let signal = soon(subscription.next()).await.unwrap();
        if signal.payload == end {
            return heard;
        }
        heard.push(String::from_utf8(signal.payload.to_vec()).unwrap());
    }
}

async fn one_publisher_is_heard_in_order(bus: &dyn Signals) {
    let subject = subject();
    let mut one = listen(bus, &subject).await;
    let mut other = listen(bus, &subject).await;
    for n in 0..1000 {
        send(bus, &subject, text(n)).await;
    }
    send(bus, &subject, text("end")).await;
    let all: Vec<_> = (0..1000).map(|n| n.to_string()).collect();
    assert_eq!(until(&mut *one, "end").await, all);
    assert_eq!(until(&mut *other, "end").await, all);
}

async fn only_who_listens_hears(bus: &dyn Signals) {
    let subject = subject();
    send(bus, &subject, text("too early")).await;
    let mut ear = listen(bus, &subject).await;
    send(bus, &format!("{subject}.more"), text("longer")).await;
    send(bus, &format!("{subject}x"), text("other")).await;
    send(bus, &subject, text("heard")).await;
    let signal = soon(ear.next()).await.unwrap();
    assert_eq!(
        (signal.subject, signal.payload, signal.reply),
        (subject, text("heard"), None)
    );
}

async fn a_trace_goes_beside_its_message(bus: &dyn Signals) {
    let subject = subject();
    let mut ear = listen(bus, &subject).await;
    let trace: TraceContext = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        .parse()
        .unwrap();
    for trace in [None, Some(trace)] {
        bus.publish_traced(&subject, text("heard"), trace.as_ref())
            .unwrap();
        let signal = soon(ear.next()).await.unwrap();
        assert_eq!(
            (signal.payload, signal.trace.as_deref().copied()),
            (text("heard"), trace)
        );
    }
}

async fn a_star_is_one_token(bus: &dyn Signals) {
    let subject = subject();
    let mut ear = listen(bus, &format!("{subject}.*.c")).await;
    for other in ["", ".c", ".b", ".b.c.d", ".b.d"] {
        send(bus, &format!("{subject}{other}"), text(other)).await;
    }
    send(bus, &format!("{subject}.a.c"), text("a")).await;
    send(bus, &format!("{subject}.b.c"), text("b")).await;
    send(bus, &format!("{subject}.end.c"), text("end")).await;
    assert_eq!(until(&mut *ear, "end").await, ["a", "b"]);
}

async fn an_arrow_is_the_rest(bus: &dyn Signals) {
    let subject = subject();
    let mut ear = listen(bus, &format!("{subject}.>")).await;
    send(bus, &subject, text("none")).await;
    send(bus, &format!("{subject}.a"), text("one")).await;
    send(bus, &format!("{subject}.a.b.c"), text("three")).await;
    send(bus, &format!("{subject}.end"), text("end")).await;
    assert_eq!(until(&mut *ear, "end").await, ["one", "three"]);
}

async fn one_of_a_queue_gets_it(bus: &dyn Signals) {
    let subject = subject();
    let pattern = format!("{subject}.*");
    let mut everybody = listen(bus, &pattern).await;
    let mut first = soon(bus.subscribe(&pattern, Some("workers"))).await.unwrap();
    let mut second = soon(bus.subscribe(&pattern, Some("workers"))).await.unwrap();
    let mut others = soon(bus.subscribe(&pattern, Some("others"))).await.unwrap();
    for n in 0..200 {
        send(bus, &format!("{subject}.x"), text(n)).await;
    }
    send(bus, &format!("{subject}.x"), text("end")).await;
    let all: Vec<_> = (0..200).map(|n| n.to_string()).collect();
    assert_eq!(until(&mut *everybody, "end").await, all);
    assert_eq!(until(&mut *others, "end").await, all);
    let (mut heard, mut shares) = (Vec::new(), [0, 0]);
    while heard.len() < 201 {
        let (share, signal) = soon(async {
            tokio::select! {
                signal = first.next() => (0, signal),
                signal = second.next() => (1, signal),
            }
        })
        .await;
        shares[share] += 1;
        heard.push(String::from_utf8(signal.unwrap().payload.to_vec()).unwrap());
    }
    heard.sort_unstable();
    heard.dedup();
    assert_eq!(heard.len(), 201, "each exactly once");
    assert!(shares.iter().all(|share| *share > 20), "both work: {shares:?}");
}

async fn a_request_is_answered(bus: &dyn Signals) {
    let subject = subject();
    let mut server = soon(bus.subscribe(&subject, Some("servers"))).await.unwrap();
    let serve = async {
        for _ in 0..10 {
            let question = soon(server.next()).await.unwrap();
            let answer = [&b"re: "[..], &question.payload].concat();
            let reply = question.reply.unwrap();
            send(bus, &reply, answer.into()).await;
            // A second answer is nobody's.
            send(bus, &reply, text("again")).await;
        }
    };
    let ask = async {
        for n in 0..10 {
            let answer = soon(bus.request(&subject, text(n), Duration::from_secs(20))).await;
            assert_eq!(answer, Ok(text(format!("re: {n}"))));
        }
    };
    tokio::join!(serve, ask);
}

async fn nobody_to_answer_is_known_at_once(bus: &dyn Signals) {
    let subject = subject();
    let answer = soon(bus.request(&subject, text("?"), Duration::from_secs(3600))).await;
    assert_eq!(answer, Err(SignalsError::NoResponders(subject)));
}

async fn an_answer_that_does_not_come_is_not_waited_for(bus: &dyn Signals) {
    let subject = subject();
    let _silent = listen(bus, &subject).await;
    let answer = soon(bus.request(&subject, text("?"), Duration::from_millis(50))).await;
    assert_eq!(answer, Err(SignalsError::Timeout(subject)));
}

async fn a_dropped_subscription_has_ended(bus: &dyn Signals) {
    let subject = subject();
    drop(listen(bus, &subject).await);
    drop(listen(bus, &format!("{subject}.*")).await);
    for asked in [subject.clone(), format!("{subject}.x")] {
        // A server may need a moment to hear of it.
        let gone = async {
            let timeout = Duration::from_millis(200);
            while bus.request(&asked, text("?"), timeout).await
                != Err(SignalsError::NoResponders(asked.clone()))
            {}
        };
        soon(gone).await;
    }
}

async fn waiting_can_be_given_up(bus: &dyn Signals) {
    let subject = subject();
    let mut ear = listen(bus, &subject).await;
    let mut heard = Vec::new();
    for n in 0..100 {
        send(bus, &subject, text(n)).await;
        for _ in 0..2 {
            if let Some(signal) = poll_once(ear.next()).await {
                heard.push(String::from_utf8(signal.unwrap().payload.to_vec()).unwrap());
            }
        }
    }
    send(bus, &subject, text("end")).await;
    heard.extend(until(&mut *ear, "end").await);
    assert_eq!(heard, (0..100).map(|n| n.to_string()).collect::<Vec<_>>());
}

async fn who_does_not_keep_up_loses_the_newest(bus: &dyn Signals) {
    const FLOOD: usize = 200_000;
    let subject = subject();
    let mut lazy = listen(bus, &subject).await;
    let mut quick = listen(bus, &format!("{subject}.quick")).await;
    for n in 0..FLOOD {
        send(bus, &subject, text(n)).await;
    }
    // Others are not disturbed.
    send(bus, &format!("{subject}.quick"), text("here")).await;
    assert_eq!(soon(quick.next()).await.unwrap().payload, "here");
    // With some taken there is room for more, as soon as what is still on its way has arrived.
    let knock = async {
        loop {
            send(bus, &subject, text("end")).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let heard: Vec<usize> = tokio::select! {
        heard = until(&mut *lazy, "end") => heard.iter().map(|n| n.parse().unwrap()).collect(),
        never = knock => never,
    };
    assert!(heard.len() < FLOOD, "the buffer is bounded");
    assert!(
        heard.iter().copied().take(1000).eq(0..1000),
        "the oldest are kept"
    );
    assert!(heard.is_sorted_by(|one, next| one < next));
    // Emptied, it hears everything again.
    send(bus, &subject, text("begin")).await;
    until(&mut *lazy, "begin").await;
    for n in 0..100 {
        send(bus, &subject, text(n)).await;
    }
    send(bus, &subject, text("end")).await;
    assert_eq!(until(&mut *lazy, "end").await.len(), 100);
}

/// Publishes more than an engine may take without a pause.
async fn send(bus: &dyn Signals, subject: &str, payload: Bytes) {
    let sent = async {
        while let Err(error) = bus.publish(subject, payload.clone()) {
            assert!(matches!(error, SignalsError::Unavailable(_)), "{error}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon(sent).await;
}
