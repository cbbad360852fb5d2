use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;

/// `service.name` counts even where the attributes have another one. Values may be percent-encoded (OpenTelemetry,
/// "Resource SDK").
pub(super) fn resource(service: &str, attributes: &[(String, String)]) -> Resource {
    let attributes = attributes
        .iter()
        .map(|(key, value)| KeyValue::new(key.clone(), decoded(value)));
    Resource::builder_empty()
        .with_attributes(attributes)
        .with_service_name(service.to_owned())
        .build()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_and_the_service_has_its_own_name() {
        let given = [("zone", "a%2Cb"), ("odd", "100%"), ("service.name", "other")];
        let given = given.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let resource = resource("fanfare-gateway", &given);
        let value = |key: &'static str| resource.get(&key.into()).map(|value| value.to_string());
        assert_eq!(value("zone").as_deref(), Some("a,b"));
        assert_eq!(value("odd").as_deref(), Some("100%"));
        assert_eq!(value("service.name").as_deref(), Some("fanfare-gateway"));
    }
}
