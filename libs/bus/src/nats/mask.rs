/// A comma-separated list of servers as it may be shown in logs and errors: without users, passwords and tokens.
///
/// Text that is no such list is masked up to its last `@`, or as a whole if it has none: a secret may stand anywhere
/// in it.
#[must_use]
pub fn mask(servers: &str) -> String {
    let shown: Option<Vec<_>> = parts(servers).map(shown).collect();
    match shown {
        Some(shown) => shown.join(","),
        None => match servers.rsplit_once('@') {
            Some((_, rest)) if rest.chars().all(|c| is_address(c) || c == ',') => format!("***@{rest}"),
            _ => "***".to_owned(),
        },
    }
}

/// The entries of a comma-separated list.
pub(super) fn parts(servers: &str) -> impl Iterator<Item = &str> {
    servers.split(',').map(str::trim).filter(|part| !part.is_empty())
}

/// An entry without its secret; `None` when it cannot be told where the secret ends.
fn shown(part: &str) -> Option<String> {
    let (scheme, rest) = part.split_once("://").unwrap_or(("", part));
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (secret, address) = match rest.split_once('@') {
        Some((secret, address)) => (Some(secret), address),
        None => (None, rest),
    };
    // A secret in an entry without a scheme may be the end of one with a comma in it.
    let doubtful = secret.is_some_and(|secret| scheme.is_empty() || secret.contains(['/', '?', '#']));
    if doubtful || !address.chars().all(is_address) || !scheme.chars().all(|c| c.is_ascii_alphabetic()) {
        return None;
    }
    let mut shown = String::new();
    if !scheme.is_empty() {
        shown.push_str(scheme);
        shown.push_str("://");
    }
    if secret.is_some() {
        shown.push_str("***@");
    }
    shown.push_str(address);
    Some(shown)
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
        for (servers, masked) in [
            ("", ""),
            ("nats://localhost:4222", "nats://localhost:4222"),
            ("localhost", "localhost"),
            ("nats://alice:secret@a:1", "nats://***@a:1"),
            ("tls://token@[::1]:4222/", "tls://***@[::1]:4222"),
            ("nats://u:p@a, nats://v:q@b:2,c", "nats://***@a,nats://***@b:2,c"),
            // Not what the syntax allows, so nothing before the last `@` can be trusted.
            ("nats://u:p@ss@a:1", "***@a:1"),
            ("nats://u:12,w@h:1", "***@h:1"),
            ("nats://u:p/w@h", "***@h"),
            ("nats://u:p@h/w", "***"),
            ("a secret", "***"),
        ] {
            assert_eq!(mask(servers), masked, "{servers}");
        }
    }

    proptest! {
        /// Capitals and digits stand in the secrets only.
        #[test]
        fn no_part_of_a_secret_is_shown(
            secrets in prop::collection::vec("[A-Z0-9@/:?#%+=!&,; ]{0,12}[A-Z0-9]", 1..4),
            scheme in "(nats|tls)",
        ) {
            let servers: Vec<_> = secrets.iter().map(|secret| format!("{scheme}://user:{secret}@host")).collect();
            let shown = mask(&servers.join(","));
            prop_assert!(!shown.contains(|c: char| c.is_ascii_uppercase() || c.is_ascii_digit()), "{}", shown);
            prop_assert!(shown.ends_with("host"));
        }

        #[test]
        fn masking_again_changes_nothing(servers in ".{0,40}") {
            let once = mask(&servers);
            prop_assert_eq!(mask(&once), once);
        }
    }
}
