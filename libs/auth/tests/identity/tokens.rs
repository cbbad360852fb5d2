//! Tokens and keys that need no network.

use auth::{Authenticator, MAX_TOKEN, Refusal, Shown};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use config::{AuthMode, Secret};
use http::{HeaderMap, header};
use jsonwebtoken::Algorithm;
use lifecycle::Tasks;
use model::Role;
use serde_json::{Value, json};

use crate::stage::{
    IP, SECRET, ask, build, config, file, issuer, jwk, key, mint, now, secret, set, text, user,
};

fn with_secret() -> Authenticator {
    build(|config| config.auth.jwt_secret = Some(Secret::from(SECRET.to_owned()))).unwrap()
}

fn part(json: &Value) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(json.to_string())
}

/// A token of any head, signed or not with HS256.
fn forge(head: &Value, claims: &Value, by: Option<&str>) -> String {
    let message = format!("{}.{}", part(head), part(claims));
    let signature =
        by.map(|by| jsonwebtoken::crypto::sign(message.as_bytes(), &secret(by), Algorithm::HS256).unwrap());
    format!("{message}.{}", signature.unwrap_or_default())
}

#[tokio::test]
async fn table_of_claims() {
    let authenticator = with_secret();
    let (future, past) = (now() + 600, now() - 600);
    let invalid = Err(Refusal::InvalidToken);
    for (what, claims, expected) in [
        ("good", json!({}), Ok("ada")),
        ("no exp", json!({ "exp": null }), Ok("ada")),
        (
            "a fraction of exp",
            json!({ "exp": now() as f64 + 600.5 }),
            Ok("ada"),
        ),
        ("expired", json!({ "exp": past }), Err(Refusal::TokenExpired)),
        ("expired now", json!({ "exp": now() }), Err(Refusal::TokenExpired)),
        ("expired in 1970", json!({ "exp": 0 }), Err(Refusal::TokenExpired)),
        ("exp as text", json!({ "exp": future.to_string() }), invalid),
        ("exp below 0", json!({ "exp": -1 }), invalid),
        ("exp beyond everything", json!({ "exp": 1e300 }), invalid),
        ("not yet", json!({ "nbf": future }), invalid),
        ("nbf as text", json!({ "nbf": "now" }), invalid),
        ("begun", json!({ "nbf": past }), Ok("ada")),
        ("no sub", json!({ "sub": null }), invalid),
        ("a number as sub", json!({ "sub": 7 }), invalid),
        ("empty sub", json!({ "sub": "" }), invalid),
        ("control character in sub", json!({ "sub": "a\nb" }), invalid),
        (
            "sub of 129 characters",
            json!({ "sub": "s".repeat(129) }),
            invalid,
        ),
        ("odd role", json!({ "role": "god" }), invalid),
        ("rooms that are no list", json!({ "rooms": "all" }), invalid),
        ("permissions of numbers", json!({ "permissions": [1] }), invalid),
        ("deep claims", json!({ "x": nested(200) }), invalid),
        ("huge claims", json!({ "rooms": vec!["r"; 10_000] }), invalid),
    ] {
        let token = mint(Algorithm::HS256, &secret(SECRET), None, &claims);
        assert_eq!(
            ask(&authenticator, &token).await,
            expected.map(str::to_owned),
            "{what}"
        );
    }
}

/// Lists in lists, as a JSON text that is parsed again.
fn nested(depth: usize) -> Value {
    (0..depth).fold(json!(1), |inner, _| json!([inner]))
}

#[tokio::test]
async fn claims_become_the_user() {
    let authenticator = build(|config| {
        config.auth.jwt_secret = Some(Secret::from(SECRET.to_owned()));
        config.namespaces[0].join_rooms = [("team-{claims.team}-{claims.org.id}".to_owned(), Vec::new())]
            .into_iter()
            .collect();
    })
    .unwrap();
    let claims = json!({
        "username": "Ada", "role": "moderator", "permissions": ["p"], "rooms": ["team-*"],
        "team": ["red", 7, {}], "org": {"id": "x"}, "unasked": "for",
    });
    let token = mint(Algorithm::HS256, &secret(SECRET), None, &claims);
    let ada = user(&authenticator, &token).await.unwrap();
    assert_eq!((&*ada.username, ada.role), ("Ada", Role::Moderator));
    assert_eq!(
        (&ada.permissions[..], &ada.rooms[..]),
        (&["p".to_owned()][..], &["team-*".to_owned()][..])
    );
    let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    assert_eq!(
        ada.claims,
        [
            ("org.id".to_owned(), texts(&["x"])),
            ("team".to_owned(), texts(&["red", "7"])),
        ]
    );
    assert!(ada.expires_at.unwrap() > now());
    let odd_name = mint(
        Algorithm::HS256,
        &secret(SECRET),
        None,
        &json!({ "username": "a\u{0}b" }),
    );
    assert_eq!(&*user(&authenticator, &odd_name).await.unwrap().username, "ada");
}

#[tokio::test]
async fn every_algorithm_and_no_other_key() {
    for (file_of_key, name, algorithms) in [
        (
            "rsa.pub.pem",
            "rsa",
            &[
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ][..],
        ),
        ("p256.pub.pem", "p256", &[Algorithm::ES256]),
        ("p384.pub.pem", "p384", &[Algorithm::ES384]),
        ("ed25519.pub.pem", "ed25519", &[Algorithm::EdDSA]),
    ] {
        let of_file = build(|config| config.auth.public_keys = Some(file(file_of_key))).unwrap();
        for alg in algorithms {
            let token = mint(*alg, &key(name), None, &json!({}));
            assert_eq!(ask(&of_file, &token).await, Ok("ada".to_owned()), "{alg:?}");
            // A secret is not what it would take, and the public key is no secret.
            let public = text(file_of_key);
            for by in [SECRET, &public, public.trim(), public.trim_end_matches('\n')] {
                let token = mint(Algorithm::HS256, &secret(by), None, &json!({}));
                assert_eq!(ask(&of_file, &token).await, Err(Refusal::InvalidToken), "{alg:?}");
            }
            // A key of a JWKS is for the algorithm it names alone.
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("jwks.json");
            std::fs::write(&path, set(&[jwk(name, *alg, "k")])).unwrap();
            let of_set = build(|config| config.auth.jwks_file = Some(path)).unwrap();
            for other in algorithms {
                let token = mint(*other, &key(name), Some("k"), &json!({}));
                let expected = if other == alg {
                    Ok("ada".to_owned())
                } else {
                    Err(Refusal::InvalidToken)
                };
                assert_eq!(ask(&of_set, &token).await, expected, "{alg:?} {other:?}");
            }
        }
    }
    let of_secret = with_secret();
    for alg in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        let token = mint(alg, &secret(SECRET), Some("whatever"), &json!({}));
        assert_eq!(ask(&of_secret, &token).await, Ok("ada".to_owned()), "{alg:?}");
    }
    let other = build(|config| config.auth.public_keys = Some(file("rsa-other.pub.pem"))).unwrap();
    let token = mint(Algorithm::RS256, &key("rsa"), None, &json!({}));
    assert_eq!(ask(&other, &token).await, Err(Refusal::InvalidToken));
}

#[tokio::test]
async fn table_of_forgeries() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jwks.json");
    std::fs::write(&path, set(&[jwk("rsa", Algorithm::RS256, "a key")])).unwrap();
    let authenticator = build(|config| {
        config.auth.jwks_file = Some(path.clone());
        config.auth.jwt_secret = Some(Secret::from(SECRET.to_owned()));
    })
    .unwrap();
    let claims = json!({ "sub": "ada", "exp": now() + 600 });
    let head = |more: &Value| {
        let mut head = json!({ "alg": "HS256", "typ": "JWT" });
        for (name, value) in more.as_object().unwrap() {
            head[name] = value.clone();
        }
        head
    };
    let signed = |more: Value| forge(&head(&more), &claims, Some(SECRET));
    assert_eq!(
        ask(&authenticator, &signed(json!({}))).await,
        Ok("ada".to_owned()),
        "the forger's own tool works"
    );

    let good = mint(Algorithm::RS256, &key("rsa"), Some("a key"), &json!({}));
    let (message, _) = good.rsplit_once('.').unwrap();
    let own_key = jwk("rsa-other", Algorithm::RS256, "a key");
    let mut table = vec![
        ("alg none", forge(&json!({ "alg": "none" }), &claims, None)),
        (
            "alg None",
            forge(&json!({ "alg": "None" }), &claims, Some(SECRET)),
        ),
        ("no alg", forge(&json!({ "typ": "JWT" }), &claims, Some(SECRET))),
        ("alg twice", {
            let head = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none","alg":"HS256"}"#);
            format!("{head}.{}.", part(&claims))
        }),
        ("no signature", format!("{message}.")),
        ("no signature, no dot", message.to_owned()),
        ("a signature of zeros", format!("{message}.{}", "A".repeat(342))),
        (
            "other key",
            mint(Algorithm::HS256, &secret("another"), None, &json!({})),
        ),
        (
            "other RSA key",
            mint(Algorithm::RS256, &key("rsa-other"), Some("a key"), &json!({})),
        ),
        ("crit", signed(json!({ "crit": ["b64"], "b64": false }))),
        ("empty crit", signed(json!({ "crit": [] }))),
        ("crit that is no list", signed(json!({ "crit": "exp" }))),
        ("long kid", signed(json!({ "kid": "k".repeat(300) }))),
        ("kid of another type", signed(json!({ "kid": 7 }))),
        (
            "padding",
            format!("{}==", mint(Algorithm::HS256, &secret(SECRET), None, &json!({}))),
        ),
        ("four parts", format!("{good}.x")),
        ("line break", format!("{good}\n")),
        ("dots", "..".to_owned()),
        ("rubbish", "rubbish".to_owned()),
        ("empty", String::new()),
        (
            "no UTF-8 in the head",
            format!(
                "{}.{}.",
                BASE64_URL_SAFE_NO_PAD.encode([0xff, 0xfe]),
                part(&claims)
            ),
        ),
        ("a key of its own", {
            let mut header = jsonwebtoken::Header::new(Algorithm::RS256);
            header.jwk = Some(serde_json::from_value(own_key).unwrap());
            header.jku = Some("http://127.0.0.1:9/jwks".to_owned());
            header.x5u = header.jku.clone();
            jsonwebtoken::encode(&header, &claims, &key("rsa-other")).unwrap()
        }),
        ("more than is looked at", {
            let claims = json!({ "sub": "ada", "x": "x".repeat(MAX_TOKEN) });
            mint(Algorithm::HS256, &secret(SECRET), None, &claims)
        }),
    ];
    for kid in [
        "../../etc/passwd",
        "/dev/null",
        "a key\u{0}",
        "' OR 1=1 --",
        "http://127.0.0.1:9/",
    ] {
        // With an empty secret, as one would be read from /dev/null.
        table.push((
            "kid traversal",
            forge(&head(&json!({ "kid": kid })), &claims, Some("")),
        ));
        table.push((
            "kid traversal",
            mint(Algorithm::RS256, &key("rsa"), Some(kid), &json!({})),
        ));
    }
    for (what, token) in table {
        assert_eq!(
            ask(&authenticator, &token).await,
            Err(Refusal::InvalidToken),
            "{what}"
        );
    }
}

#[tokio::test]
async fn issuers_keep_their_keys_and_audiences_apart() {
    let authenticator = build(|config| {
        config.auth.jwt_secret = Some(Secret::from(SECRET.to_owned()));
        config.issuers = vec![
            config::Issuer {
                audience: Some("chat".to_owned()),
                public_keys: Some(file("rsa.pub.pem")),
                ..issuer("https://a.example/")
            },
            config::Issuer {
                secret: Some(Secret::from("another secret of 32 bytes or more".to_owned())),
                previous_secret: Some(Secret::from("the secret that was before that one".to_owned())),
                ..issuer("https://b.example/")
            },
        ];
    })
    .unwrap();
    let (rs, hs) = (Algorithm::RS256, Algorithm::HS256);
    let (rsa, own) = (key("rsa"), secret(SECRET));
    let b = secret("another secret of 32 bytes or more");
    let of_a = |aud: Value| json!({ "iss": "https://a.example/", "aud": aud });
    let of_b = json!({ "iss": "https://b.example/", "aud": "whoever" });
    let invalid = || Err(Refusal::InvalidToken);
    let ada = || Ok("ada".to_owned());
    for (what, token, expected) in [
        ("a", mint(rs, &rsa, None, &of_a(json!("chat"))), ada()),
        (
            "a, one of its audiences",
            mint(rs, &rsa, None, &of_a(json!(["mail", "chat"]))),
            ada(),
        ),
        (
            "a, wrong audience",
            mint(rs, &rsa, None, &of_a(json!("mail"))),
            invalid(),
        ),
        (
            "a, wrong audiences",
            mint(rs, &rsa, None, &of_a(json!(["mail"]))),
            invalid(),
        ),
        (
            "a, no audience",
            mint(rs, &rsa, None, &json!({ "iss": "https://a.example/" })),
            invalid(),
        ),
        (
            "a, odd audience",
            mint(rs, &rsa, None, &of_a(json!({ "chat": 1 }))),
            invalid(),
        ),
        ("b", mint(hs, &b, None, &of_b), ada()),
        (
            "b, by the secret before",
            mint(hs, &secret("the secret that was before that one"), None, &of_b),
            ada(),
        ),
        ("b's name, a's key", mint(rs, &rsa, None, &of_b), invalid()),
        (
            "a's name, b's key",
            mint(hs, &b, None, &of_a(json!("chat"))),
            invalid(),
        ),
        (
            "a's name, our own key",
            mint(hs, &own, None, &of_a(json!("chat"))),
            invalid(),
        ),
        (
            "nobody's name, our own key",
            mint(hs, &own, None, &json!({ "iss": "https://c.example/" })),
            ada(),
        ),
        (
            "nobody's name, a's key",
            mint(rs, &rsa, None, &json!({ "iss": "https://c.example/" })),
            invalid(),
        ),
        (
            "two names",
            mint(hs, &b, None, &json!({ "iss": ["https://b.example/"] })),
            invalid(),
        ),
        ("no name, our own key", mint(hs, &own, None, &json!({})), ada()),
        ("no name, b's key", mint(hs, &b, None, &json!({})), invalid()),
    ] {
        assert_eq!(ask(&authenticator, &token).await, expected, "{what}");
    }

    let named = build(|config| {
        config.auth.jwt_secret = Some(Secret::from(SECRET.to_owned()));
        config.auth.issuer = Some("us".to_owned());
        config.auth.audience = Some("chat".to_owned());
    })
    .unwrap();
    for (claims, expected) in [
        (json!({ "iss": "us", "aud": "chat" }), ada()),
        (json!({ "iss": "us" }), invalid()),
        (json!({ "aud": "chat" }), invalid()),
        (json!({ "iss": "them", "aud": "chat" }), invalid()),
        (json!({}), invalid()),
    ] {
        let token = mint(hs, &own, None, &claims);
        assert_eq!(ask(&named, &token).await, expected, "{claims}");
    }
}

#[tokio::test]
async fn clocks_may_be_off_as_far_as_configured() {
    let authenticator = build(|config| {
        config.auth.jwt_secret = Some(Secret::from(SECRET.to_owned()));
        config.auth.leeway = std::time::Duration::from_secs(120);
    })
    .unwrap();
    for (claims, expected) in [
        (json!({ "exp": now() - 60 }), Ok("ada".to_owned())),
        (json!({ "exp": now() - 180 }), Err(Refusal::TokenExpired)),
        (json!({ "nbf": now() + 60 }), Ok("ada".to_owned())),
        (json!({ "nbf": now() + 180 }), Err(Refusal::InvalidToken)),
    ] {
        let token = mint(Algorithm::HS256, &secret(SECRET), None, &claims);
        assert_eq!(ask(&authenticator, &token).await, expected, "{claims}");
    }
}

#[tokio::test]
async fn guests_only_where_they_are_allowed() {
    let shown = Shown::default();
    let jwt = with_secret();
    let refused = jwt.authenticate(None, &shown, IP).await;
    assert_eq!(refused, Err(Refusal::AuthenticationRequired));
    let guests = build(|config| config.auth.mode = AuthMode::Guest).unwrap();
    let ada = guests
        .authenticate(Some(r#"{"username":" Ada "}"#), &shown, IP)
        .await
        .unwrap();
    assert_eq!((&*ada.username, ada.role), ("Ada", Role::Guest));
    assert!(ada.anonymous && ada.id.as_str().starts_with("guest-"));
    let nameless = guests
        .authenticate(Some(r#"{"username":"a\u0000b"}"#), &shown, IP)
        .await
        .unwrap();
    assert_eq!(&*nameless.username, nameless.id.as_str());
    let with_token = guests
        .authenticate(Some(r#"{"token":"rubbish"}"#), &shown, IP)
        .await;
    assert_eq!(
        with_token,
        Err(Refusal::InvalidToken),
        "a token that does not hold makes nobody a guest"
    );
}

#[tokio::test]
async fn a_token_that_cannot_be_read_is_invalid() {
    let guests = build(|config| {
        config.auth.mode = AuthMode::Guest;
        config.auth.jwt_secret = Some(Secret::from(SECRET.to_owned()));
        config.auth.cookie = Some("session".to_owned());
    })
    .unwrap();
    let cookie = mint(Algorithm::HS256, &secret(SECRET), None, &json!({ "sub": "bob" }));
    let mut headers = HeaderMap::new();
    headers.insert(header::COOKIE, format!("session={cookie}").parse().unwrap());
    let shown = guests.shown(&headers, None);
    let deep = format!(r#"{{"token":{}1{}}}"#, "[".repeat(200), "]".repeat(200));
    for (auth, refused) in [
        (r#"{"token":7}"#, true),
        (r#"{"token":["x"]}"#, true),
        (r#"{"token":"x","token":"y"}"#, true),
        (r#"{"token":"x","username":7}"#, true),
        (&deep, true),
        (r#"{"username":7}"#, false),
        (r#"{"session":{"token":7}}"#, false),
        (r#"["token"]"#, false),
        (r#""token""#, false),
    ] {
        let expected = if refused {
            Err(Refusal::InvalidToken)
        } else {
            Ok("bob")
        };
        let user = guests.authenticate(Some(auth), &shown, IP).await;
        let user = user
            .as_ref()
            .map(|user| user.id.as_str())
            .map_err(|refusal| *refusal);
        assert_eq!(user, expected, "{auth}");
    }
}

#[tokio::test]
async fn keys_that_cannot_be_used_are_told_by_setting_and_file() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, content: String| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let pem = |base64: &str| format!("-----BEGIN PUBLIC KEY-----\n{base64}\n-----END PUBLIC KEY-----\n");
    let weak = text("rsa-weak.pub.pem");
    for (what, path) in [
        ("a private key", file("rsa.pem")),
        ("a weak key", file("rsa-weak.pub.pem")),
        ("no key", write("empty.pem", String::new())),
        ("half a key", write("half.pem", weak[..weak.len() / 2].to_owned())),
        ("no ASN.1", write("rubbish.pem", pem("AAAA"))),
        (
            "an Ed25519 key of 5 bytes",
            write("short.pem", pem("MA8wBQYDK2VwAwYAAAAAAAA=")),
        ),
    ] {
        let error = build(|config| config.auth.public_keys = Some(path.clone()))
            .err()
            .unwrap();
        assert_eq!(error.setting, "auth.public_keys", "{what}");
        assert!(error.problem.contains(path.to_str().unwrap()), "{what}: {error}");
        assert!(!error.to_string().contains("MI"), "{what}: {error}");
        assert!(auth::check_files(&config(|config| config.auth.public_keys = Some(path))).is_err());
    }
    let short = BASE64_URL_SAFE_NO_PAD.encode([7; 5]);
    for (what, keys) in [
        ("no keys", json!([])),
        (
            "short Ed25519",
            json!([{ "kty": "OKP", "crv": "Ed25519", "x": short }]),
        ),
        ("X25519", json!([{ "kty": "OKP", "crv": "X25519", "x": short }])),
        (
            "a point that is on no curve",
            json!([{ "kty": "EC", "crv": "P-256", "x": short, "y": short }]),
        ),
        ("short RSA", json!([{ "kty": "RSA", "n": short, "e": "AQAB" }])),
        ("for encryption", {
            let mut key = jwk("rsa", Algorithm::RS256, "k");
            key["use"] = json!("enc");
            json!([key])
        }),
        ("of another family", {
            let mut key = jwk("rsa", Algorithm::RS256, "k");
            key["alg"] = json!("ES256");
            json!([key])
        }),
        ("empty secret", json!([{ "kty": "oct", "k": "" }])),
    ] {
        let path = write("jwks.json", json!({ "keys": keys }).to_string());
        let error = build(|config| config.auth.jwks_file = Some(path)).err().unwrap();
        assert_eq!(error.setting, "auth.jwks_file", "{what}");
    }
    let some = json!({ "keys": [{ "kty": "oct", "k": part(&json!(SECRET)) }, { "kty": "new" }, 7] });
    let path = write("jwks.json", some.to_string());
    assert!(
        build(|config| config.auth.jwks_file = Some(path)).is_ok(),
        "what is not known is passed over"
    );
}

#[tokio::test]
async fn settings_are_replaced_while_they_are_used() {
    let before = config(|config| config.auth.jwt_secret = Some(Secret::from(SECRET.to_owned())));
    let authenticator = Authenticator::new(&before, Tasks::new()).unwrap();
    let old = mint(Algorithm::HS256, &secret(SECRET), None, &json!({}));
    let new = mint(Algorithm::RS256, &key("rsa"), None, &json!({}));
    assert!(ask(&authenticator, &old).await.is_ok() && ask(&authenticator, &new).await.is_err());
    let bad = config(|config| config.auth.public_keys = Some(file("rsa-weak.pub.pem")));
    assert!(authenticator.reload(&bad).is_err());
    assert!(
        ask(&authenticator, &old).await.is_ok(),
        "what cannot be used changes nothing"
    );
    let after = config(|config| config.auth.public_keys = Some(file("rsa.pub.pem")));
    authenticator.reload(&after).unwrap();
    assert!(ask(&authenticator, &old).await.is_err() && ask(&authenticator, &new).await.is_ok());
}
