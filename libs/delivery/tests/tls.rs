//! What is wrong with certificate files is said, with the file's name.

#![allow(clippy::unwrap_used, reason = "a test reports by panicking")]

#[allow(dead_code, reason = "shared with the tests of links")]
mod support;

use std::fs;

use delivery::tls::InternalTls;
use support::Certificates;

fn wrong(certificates: &Certificates) -> String {
    let [cert, key, ca] = ["cert.pem", "key.pem", "ca.pem"].map(|name| certificates.path(name));
    InternalTls::load(&cert, &key, &ca).unwrap_err().to_string()
}

#[test]
fn what_is_wrong_names_the_file() {
    for name in ["cert.pem", "key.pem", "ca.pem"] {
        let certificates = Certificates::new(&["g"]);
        let path = certificates.path(name);
        let shown = path.display().to_string();

        fs::write(&path, "").unwrap();
        let error = wrong(&certificates);
        assert!(
            error.starts_with(&shown) && error.contains("there is no"),
            "{error}"
        );

        fs::write(&path, "-----BEGIN CERTIFICATE-----\n???\n").unwrap();
        let error = wrong(&certificates);
        assert!(error.starts_with(&shown), "{error}");

        let kind = if name == "key.pem" {
            "PRIVATE KEY"
        } else {
            "CERTIFICATE"
        };
        fs::write(
            &path,
            format!("-----BEGIN {kind}-----\nAAAA\n-----END {kind}-----\n"),
        )
        .unwrap();
        let error = wrong(&certificates);
        assert!(error.starts_with(&shown), "{error}");

        fs::remove_file(&path).unwrap();
        let error = wrong(&certificates);
        assert!(
            error.starts_with(&shown) && error.contains("No such file"),
            "{error}"
        );
    }
}

#[test]
fn a_key_of_another_certificate_is_told() {
    let certificates = Certificates::new(&["g"]);
    fs::copy(
        Certificates::new(&["g"]).path("key.pem"),
        certificates.path("key.pem"),
    )
    .unwrap();
    let error = wrong(&certificates);
    assert!(error.contains("is not the key of the certificate"), "{error}");
    assert!(error.contains("key.pem") && error.contains("cert.pem"), "{error}");
}

#[test]
fn the_name_to_expect_is_the_host_or_the_one_that_was_set() {
    let tls = Certificates::new(&["g"]).load();
    for (address, host) in [
        ("gateway-1.fanfare:7001", "gateway-1.fanfare"),
        ("10.0.0.7:7001", "10.0.0.7"),
        ("[::1]:7001", "::1"),
    ] {
        assert_eq!(tls.server_name(address).unwrap().to_str(), host);
    }
    assert!(tls.server_name("").is_err());
    assert!(tls.clone().with_server_name("no name").is_err());
    let named = tls.with_server_name("fanfare.internal").unwrap();
    assert_eq!(
        named.server_name("10.0.0.7:7001").unwrap().to_str(),
        "fanfare.internal"
    );
}
