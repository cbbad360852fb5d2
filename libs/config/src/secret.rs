use std::fmt;

const MASK: &str = "********";

/// A text that no log, error or print shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// A URL as logs and prints may show it: services take keys in the query, so that is masked.
#[must_use]
pub fn masked_url(url: &str) -> String {
    match url.split_once('?') {
        Some((open, _)) => format!("{open}?{MASK}"),
        None => url.to_owned(),
    }
}
