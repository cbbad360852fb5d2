use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;

/// What are no attributes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not of the form key=value")]
pub struct ResourceError(String);

/// Reads `key=value,key=value` as `OTEL_RESOURCE_ATTRIBUTES` has it; values may be percent-encoded.
///
/// # Errors
/// When a part has no `=` or no key.
pub fn attributes(text: &str) -> Result<Vec<(String, String)>, ResourceError> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| match part.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                Ok((key.trim().to_owned(), decoded(value.trim())))
            }
            _ => Err(ResourceError(part.to_owned())),
        })
        .collect()
}

/// RFC 3986 section 2.1; a `%` that begins no code stands for itself.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| *first == b'%');
        let code = code.and_then(|code| std::str::from_utf8(code).ok());
        let byte = code.and_then(|code| u8::from_str_radix(code, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `service.name` counts even where the attributes have another one.
pub(super) fn resource(service: &str, attributes: &[(String, String)]) -> Resource {
    let attributes = attributes
        .iter()
        .map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    Resource::builder_empty()
        .with_attributes(attributes)
        .with_service_name(service.to_owned())
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_as_the_environment_has_them() {
        let read = attributes("team=chat, zone=a%2Cb ,,empty=,odd=100%").unwrap();
        let pairs: Vec<_> = read
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            pairs,
            [("team", "chat"), ("zone", "a,b"), ("empty", ""), ("odd", "100%")]
        );
        assert!(attributes("").unwrap().is_empty());
        assert!(attributes("team").is_err());
        assert!(attributes("=chat").is_err());
    }
}
