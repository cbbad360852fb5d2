//! The application behind Fanfare: section `app`.

use crate::{App, AppAction, Config, Secret, load::Reader};

/// What holds and is not wise.
pub(crate) fn doubts(config: &Config) -> Vec<String> {
    let app = &config.app;
    if app.webhook_secret.is_some() || app.webhook_url.is_none() && app.authorize_url.is_none() {
        return Vec::new();
    }
    vec!["app.webhook_secret is not set: the application cannot tell who calls it".to_owned()]
}

impl Reader {
    pub(crate) fn app(&mut self) -> App {
        let authorize_url = self.open_url("app.authorize_url");
        let authorize = self.actions("app.authorize", authorize_url.is_some());
        App {
            webhook_url: self.open_url("app.webhook_url"),
            webhook_secret: self.optional("app.webhook_secret").map(Secret::from),
            timeout: self.duration("app.timeout_ms", 1, 86_400_000),
            max_concurrency: self.number("app.max_concurrency", 1, 100_000),
            authorize_url,
            authorize,
            authorize_cache: self.number("app.authorize_cache", 0, 10_000_000),
            tls_ca: self.file("app.tls_ca"),
        }
    }

    fn actions(&mut self, key: &str, all_when_empty: bool) -> Vec<AppAction> {
        let names = self.list(key);
        if names.is_empty() && all_when_empty {
            return AppAction::ALL.to_vec();
        }
        let mut actions = Vec::new();
        for name in names {
            match AppAction::ALL.into_iter().find(|action| action.as_str() == name) {
                Some(action) => actions.push(action),
                None => self.wrong(key, format!("{name:?} is none of connect, join, emit")),
            }
        }
        actions
    }
}
