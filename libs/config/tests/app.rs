//! Section `app`, and what is said of custom events.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::Write;

use config::{AppAction, AppNews, Config, Errors, Loaded, Role};
use serde_json::json;

fn load(file: &str, env: &[(&str, &str)]) -> Result<Loaded, Errors> {
    let mut toml = tempfile::NamedTempFile::new().unwrap();
    toml.write_all(file.as_bytes()).unwrap();
    let env = env
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Config::load(Role::Standalone, Some(toml.path()), env, [])
}

#[test]
fn the_application_is_asked_about_everything_where_there_is_a_place_for_that() {
    let url = ("FANFARE_APP__AUTHORIZE_URL", "https://a.example/");
    let actions = |env: &[(&str, &str)]| load("", env).unwrap().config.app.authorize;
    assert_eq!(actions(&[]), []);
    assert_eq!(actions(&[url]), AppAction::ALL);
    let some = ("FANFARE_APP__AUTHORIZE", "join, emit");
    assert_eq!(actions(&[some]), [AppAction::Join, AppAction::Emit]);
    assert_eq!(actions(&[url, some]), [AppAction::Join, AppAction::Emit]);
    let news = [("FANFARE_APP__LIFECYCLE", "left,joined")];
    let news = load("", &news).unwrap().config.app.lifecycle;
    assert_eq!(news, [AppNews::Left, AppNews::Joined]);
}

#[test]
fn mistakes_of_the_section_and_what_is_not_wise() {
    for (variable, value, key) in [
        ("FANFARE_APP__AUTHORIZE", "join,leave", "app.authorize"),
        ("FANFARE_APP__LIFECYCLE", "born", "app.lifecycle"),
        (
            "FANFARE_APP__WEBHOOK_URL",
            "https://user:hunter2@a.example/",
            "app.webhook_url",
        ),
        ("FANFARE_APP__MAX_CONCURRENCY", "0", "app.max_concurrency"),
    ] {
        let errors = load("", &[(variable, value)]).unwrap_err();
        assert_eq!(errors.0[0].key, key);
        assert!(!errors.to_string().contains("hunter2"));
    }
    let url = ("FANFARE_APP__WEBHOOK_URL", "https://a.example/");
    assert!(load("", &[url]).unwrap().warnings[0].starts_with("app.webhook_secret"));
    let secret = ("FANFARE_APP__WEBHOOK_SECRET", "hush");
    assert!(load("", &[url, secret]).unwrap().warnings.is_empty());
}

#[test]
fn custom_events_are_read_as_written_shown_and_checked() {
    let mut schema = tempfile::NamedTempFile::new().unwrap();
    schema
        .write_all(br#"{"type":["string","null"],"maxLength":5}"#)
        .unwrap();
    let file = format!(
        r#"
        [[namespaces]]
        pattern = "/chat"
        ordered_events = true
        [namespaces.custom_events.note]
        ordered = false
        schema = {:?}
        [namespaces.custom_events.order.schema]
        type = "object"
        required = ["item"]
        properties = {{ lines = {{ maxItems = 3, items = {{ multipleOf = 0.5 }} }} }}
        "#,
        schema.path()
    );
    let config = load(&file, &[]).unwrap().config;
    let check = |config: &Config| {
        let namespace = &config.namespaces[0];
        assert!(namespace.ordered_events);
        let note = &namespace.custom_events["note"];
        assert_eq!(note.ordered, Some(false));
        assert_eq!(
            note.schema,
            Some(json!({ "type": ["string", "null"], "maxLength": 5 }))
        );
        let order = &namespace.custom_events["order"];
        assert_eq!(order.ordered, None);
        let lines = json!({ "maxItems": 3, "items": { "multipleOf": 0.5 } });
        let expected = json!({ "type": "object", "required": ["item"], "properties": { "lines": lines } });
        assert_eq!(order.schema, Some(expected));
    };
    check(&config);
    check(&load(&config.to_toml_masked(), &[]).unwrap().config);

    let mistakes = r#"
        [[namespaces]]
        pattern = "/chat"
        ordered_events = 1
        [namespaces.custom_events]
        one = 1
        two = { schema = "/no/such/file", speed = 1, ordered = "yes" }
        three = { schema = 3 }
        "#;
    let errors = load(mistakes, &[]).unwrap_err();
    let mut keys: Vec<_> = errors.0.iter().map(|problem| problem.key.as_str()).collect();
    keys.sort_unstable();
    let expected = [
        "custom_events.one",
        "custom_events.three.schema",
        "custom_events.two.ordered",
        "custom_events.two.schema",
        "custom_events.two.speed",
        "ordered_events",
    ];
    assert_eq!(keys, expected.map(|key| format!("namespaces.0.{key}")));
}
