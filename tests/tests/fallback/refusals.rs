//! Requests are refused as events are, each with the status that fits.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use serde_json::json;
use tests::{HttpRequest, token};

use crate::{MESSAGES, get, patch, post, with_file, with_server};

const STRICT: [(&str, &str); 3] = [
    ("FANFARE_AUTH__MODE", "jwt"),
    ("FANFARE_ROOMS__PUBLIC", "lobby"),
    ("CORS_ORIGIN", "https://app.example"),
];

#[test]
fn table_of_refusals() -> Result<()> {
    with_server(&STRICT, table)
}

fn table(address: SocketAddr) -> Result<()> {
    let ada = token("ada", &[])?;
    let body = json!({ "roomId": "lobby", "content": "x" });
    let sends = || post(address, MESSAGES).token(&ada);
    let long = "x".repeat(1_100_000);
    let requests = [
        (post(address, MESSAGES).json(&body), 401, "UNAUTHORIZED"),
        (
            post(address, MESSAGES).token("no").json(&body),
            401,
            "UNAUTHORIZED",
        ),
        (
            sends().json(&json!({ "roomId": "secret", "content": "x" })),
            403,
            "FORBIDDEN",
        ),
        (
            sends().json(&json!({ "roomId": "user:bob", "content": "x" })),
            403,
            "FORBIDDEN",
        ),
        (
            sends().json(&json!({ "roomId": "lobby" })),
            400,
            "VALIDATION_ERROR",
        ),
        (sends().json(&json!([])), 400, "VALIDATION_ERROR"),
        (
            sends().with("content-type", "application/json").body("{"),
            400,
            "VALIDATION_ERROR",
        ),
        (
            sends().with("content-type", "application/json").body("\u{0}"),
            400,
            "VALIDATION_ERROR",
        ),
        (
            sends().with("content-type", "text/plain").body("{}"),
            415,
            "VALIDATION_ERROR",
        ),
        (sends().body("{}"), 415, "VALIDATION_ERROR"),
        (
            sends().json(&json!({ "roomId": "lobby", "content": long })),
            413,
            "PAYLOAD_TOO_LARGE",
        ),
        (
            sends().with("idempotency-key", &"k".repeat(129)).json(&body),
            400,
            "VALIDATION_ERROR",
        ),
        (get(address, MESSAGES).token(&ada), 400, "VALIDATION_ERROR"),
        (
            get(address, &format!("{MESSAGES}?roomId=lobby&limit=all")).token(&ada),
            400,
            "VALIDATION_ERROR",
        ),
        (
            get(address, &format!("{MESSAGES}?roomId=lobby&namespace=x")).token(&ada),
            400,
            "VALIDATION_ERROR",
        ),
        (
            get(address, &format!("{MESSAGES}?roomId=lobby&namespace=/none")).token(&ada),
            404,
            "NOT_FOUND",
        ),
        (
            get(address, &format!("{MESSAGES}?roomId=%FF%00")).token(&ada),
            400,
            "VALIDATION_ERROR",
        ),
        (
            patch(address, "/api/chat/messages/read")
                .token(&ada)
                .json(&json!({ "roomId": "lobby", "messageId": "m" })),
            404,
            "NOT_FOUND",
        ),
        (get(address, "/api/none").token(&ada), 404, "NOT_FOUND"),
        (get(address, "/none"), 404, "NOT_FOUND"),
        (
            get(address, "/api/chat/rooms").token(&ada),
            405,
            "VALIDATION_ERROR",
        ),
        (
            sends().with("origin", "https://evil.example").json(&body),
            403,
            "FORBIDDEN",
        ),
    ];
    for (number, (request, status, code)) in requests.into_iter().enumerate() {
        let answer = request.send()?;
        ensure!(
            answer.status == status && answer.body["status"] == "error" && answer.body["code"] == code,
            "{number}: not {status} {code}: {answer:?}"
        );
        ensure!(
            answer.header("content-type") == Some("application/json"),
            "{number}: {answer:?}"
        );
        ensure!(
            (status == 401) == answer.header("www-authenticate").is_some(),
            "{number}: {answer:?}"
        );
        ensure!(
            (status == 405) == answer.header("allow").is_some(),
            "{number}: {answer:?}"
        );
    }
    Ok(())
}

#[test]
fn pages_of_listed_origins_may_ask() -> Result<()> {
    with_server(&STRICT, |address| {
        let preflight = HttpRequest::new(address, "OPTIONS", MESSAGES)
            .with("origin", "https://app.example")
            .with("access-control-request-method", "POST")
            .with("access-control-request-headers", "authorization,idempotency-key")
            .send()?
            .expect(204)?;
        let allowed = preflight.header("access-control-allow-headers");
        ensure!(allowed == Some("authorization,idempotency-key"), "{preflight:?}");
        let body = json!({ "roomId": "lobby", "content": "x" });
        for (token, status) in [(token("ada", &[])?, 201), ("no".to_owned(), 401)] {
            let page = post(address, MESSAGES)
                .with("origin", "https://app.example")
                .token(&token);
            let answer = page.json(&body).send()?.expect(status)?;
            let origin = answer.header("access-control-allow-origin");
            ensure!(origin == Some("https://app.example"), "{answer:?}");
        }
        Ok(())
    })
}

#[test]
fn a_policy_of_events_is_one_of_requests() -> Result<()> {
    let file = "[[namespaces]]\npattern = \"/chat\"\nemit_roles = { message = [\"admin\"] }\n";
    with_file(Some(file), &[], |address| {
        let body = json!({ "roomId": "lobby", "content": "x" });
        post(address, MESSAGES)
            .token(&token("ada", &[])?)
            .json(&body)
            .send()?
            .expect(403)?;
        let admin = token("root", &["--role", "admin"])?;
        post(address, MESSAGES)
            .token(&admin)
            .json(&body)
            .send()?
            .expect(201)?;
        Ok(())
    })
}

/// One budget for sockets and requests; guests have that of their address.
#[test]
fn a_spent_budget_is_told() -> Result<()> {
    with_server(&[("FANFARE_LIMITS__EVENTS", "3")], |address| {
        let body = json!({ "roomId": "lobby", "content": "x" });
        let ada = token("ada", &[])?;
        for token in [Some(&ada), None] {
            let send = || match token {
                Some(token) => post(address, MESSAGES).token(token).json(&body).send(),
                None => post(address, MESSAGES).json(&body).send(),
            };
            for _ in 0..3 {
                send()?.expect(201)?;
            }
            let refused = send()?.expect(429)?;
            let after: u64 = refused.header("retry-after").unwrap().parse()?;
            ensure!(
                refused.body["code"] == "RATE_LIMITED" && refused.body["retryAfter"] == after,
                "{refused:?}"
            );
        }
        let page = format!("{MESSAGES}?roomId=lobby");
        get(address, &page)
            .token(&token("bob", &[])?)
            .send()?
            .expect(200)?;
        Ok(())
    })
}

#[test]
fn who_fails_too_often_is_not_heard() -> Result<()> {
    with_server(&[("FANFARE_LIMITS__AUTH_FAILURES_PER_IP", "2")], |address| {
        let page = format!("{MESSAGES}?roomId=lobby");
        for _ in 0..2 {
            get(address, &page).token("wrong").send()?.expect(401)?;
        }
        let ada = token("ada", &[])?;
        let refused = get(address, &page).token(&ada).send()?.expect(429)?;
        ensure!(refused.header("retry-after").is_some(), "{refused:?}");
        Ok(())
    })
}
