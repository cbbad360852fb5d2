//! The application behind Fanfare: section `app`.

use crate::{App, AppAction, AppNews, Config, Secret, load::Reader};

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
        let mut authorize = self.words("app.authorize", &AppAction::ALL, AppAction::as_str);
        if authorize.is_empty() && authorize_url.is_some() {
            authorize = AppAction::ALL.to_vec();
        }
        App {
            webhook_url: self.open_url("app.webhook_url"),
            webhook_secret: self.optional("app.webhook_secret").map(Secret::from),
            timeout: self.duration("app.timeout_ms", 1, 86_400_000),
            max_concurrency: self.number("app.max_concurrency", 1, 100_000),
            authorize_url,
            authorize,
            authorize_cache: self.number("app.authorize_cache", 0, 10_000_000),
            lifecycle: self.words("app.lifecycle", &AppNews::ALL, AppNews::as_str),
            tls_ca: self.file("app.tls_ca"),
        }
    }

    /// A list of some of `all`.
    fn words<T: Copy>(&mut self, key: &str, all: &[T], word: fn(T) -> &'static str) -> Vec<T> {
        let mut found = Vec::new();
        for name in self.list(key) {
            match all.iter().find(|item| word(**item) == name) {
                Some(item) => found.push(*item),
                None => {
                    let all: Vec<_> = all.iter().map(|item| word(*item)).collect();
                    self.wrong(key, format!("{name:?} is none of {}", all.join(", ")));
                }
            }
        }
        found
    }
}
