/// A comma-separated list of addresses as it may be shown in logs and errors: without users, passwords and options.
///
/// Text that is no such list is masked up to its last `@`, or as a whole if it has none: a secret may stand anywhere
/// in it.
#[must_use]
pub fn mask(urls: &str) -> String {
    let shown: Option<Vec<_>> = parts(urls).map(shown).collect();
    match shown {
        Some(shown) => shown.join(","),
        None => match urls.rsplit_once('@') {
            Some((_, rest)) if rest.chars().all(|c| is_address(c) || c == ',') => format!("***@{rest}"),
            _ => "***".to_owned(),
        },
    }
}

/// The entries of a comma-separated list.
pub(super) fn parts(urls: &str) -> impl Iterator<Item = &str> {
    urls.split(',').map(str::trim).filter(|part| !part.is_empty())
}

/// An entry without its secret; `None` when it cannot be told where the secret ends.
fn shown(part: &str) -> Option<String> {
    let (scheme, rest) = part.split_once("://")?;
    if scheme.is_empty() || !scheme.chars().all(|c| c.is_ascii_alphabetic() || c == '+') {
        return None;
    }
    // A password may stand in the options of a socket's address.
    let (rest, options) = match rest.split_once(['?', '#']) {
        Some((rest, options)) => (rest, Some(options)),
        None => (rest, None),
    };
    if options.is_some_and(|options| options.contains('@')) {
        return None;
    }
    let (secret, address) = match rest.split_once('@') {
        Some((secret, address)) => (Some(secret), address),
        None => (None, rest),
    };
    if secret.is_some_and(|secret| secret.contains('/')) {
        return None;
    }
    if !address.chars().all(|c| is_address(c) || c == '/') {
        return None;
    }
    let login = if secret.is_some() { "***@" } else { "" };
    Some(format!("{scheme}://{login}{}", address.trim_end_matches('/')))
}

fn is_address(c: char) -> bool {
    c.is_ascii_alphanumeric() || ".-_:[]".contains(c)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_are_shown_without_secrets() {
        for (urls, masked) in [
            ("", ""),
            ("redis://localhost:6379", "redis://localhost:6379"),
            ("redis://localhost:6379/3", "redis://localhost:6379/3"),
            ("rediss://alice:secret@a:1/", "rediss://***@a:1"),
            ("redis://:secret@[::1]:6379", "redis://***@[::1]:6379"),
            ("redis://:p@a, redis://:q@b:2", "redis://***@a,redis://***@b:2"),
            ("redis://:p@a?protocol=resp3", "redis://***@a"),
            ("unix:///run/redis.sock?pass=secret", "unix:///run/redis.sock"),
            ("rediss://a/#insecure", "rediss://a"),
            // Not what the syntax allows, so nothing before the last `@` can be trusted.
            ("redis://u:p@ss@a:1", "***@a:1"),
            ("redis://u:12,w@h:1", "***@h:1"),
            ("redis://u:p/w@h", "***@h"),
            ("redis://u:p?w@h", "***@h"),
            ("a secret", "***"),
            ("secret", "***"),
        ] {
            assert_eq!(mask(urls), masked, "{urls}");
        }
    }

    proptest! {
        /// Capitals and digits stand in the secrets only.
        #[test]
        fn no_part_of_a_secret_is_shown(
            secrets in prop::collection::vec("[A-Z0-9@/:?#%+=!&,; ]{0,12}[A-Z0-9]", 1..4),
            scheme in "(redis|rediss)",
        ) {
            let urls: Vec<_> = secrets.iter().map(|secret| format!("{scheme}://user:{secret}@host")).collect();
            let shown = mask(&urls.join(","));
            prop_assert!(!shown.contains(|c: char| c.is_ascii_uppercase() || c.is_ascii_digit()), "{}", shown);
        }
    }
}
