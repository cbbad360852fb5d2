//! Certificates: until when they hold.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use config::Config;
use x509_parser::pem::Pem;

use super::{Findings, Level, RENEW};

pub(super) fn look_at_certificates(config: &Config, findings: &mut Findings) {
    let files = [
        ("gateway.tls_cert", &config.gateway.tls_cert),
        ("admin.tls_cert", &config.admin.tls_cert),
        ("api.tls_cert", &config.api.tls_cert),
        ("bus.tls_ca", &config.bus.tls_ca),
        ("bus.tls_cert", &config.bus.tls_cert),
        ("redis.tls_ca", &config.redis.tls_ca),
        ("redis.tls_cert", &config.redis.tls_cert),
        ("grpc.tls_ca", &config.grpc.tls_ca),
        ("grpc.tls_cert", &config.grpc.tls_cert),
        ("auth.tls_ca", &config.auth.tls_ca),
    ];
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    for (setting, file) in files {
        if let Some(file) = file {
            look_at(setting, file, now, findings);
        }
    }
}

/// The certificate of a chain that ends first counts.
fn look_at(setting: &str, file: &Path, now: Duration, findings: &mut Findings) {
    let end = match fs::read(file)
        .map_err(|error| error.to_string())
        .and_then(|pem| first_end(&pem))
    {
        Ok(end) => end,
        Err(error) => return findings.add(setting, Level::Error, format!("{}: {error}", file.display())),
    };
    let date = humantime::format_rfc3339_seconds(UNIX_EPOCH + end);
    if end <= now {
        findings.add(setting, Level::Error, format!("has ended: {date}"));
    } else if end < now + RENEW {
        findings.add(setting, Level::Warning, format!("ends soon: {date}"));
    } else {
        findings.add(setting, Level::Ok, format!("holds until {date}"));
    }
}

/// Since 1970.
fn first_end(pem: &[u8]) -> Result<Duration, String> {
    let mut first = None;
    for block in Pem::iter_from_buffer(pem) {
        let block = block.map_err(|error| error.to_string())?;
        if block.label != "CERTIFICATE" {
            continue;
        }
        let certificate = block.parse_x509().map_err(|error| error.to_string())?;
        let end = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or_default();
        first = Some(first.map_or(end, |first: u64| first.min(end)));
    }
    first
        .map(Duration::from_secs)
        .ok_or_else(|| "holds no certificate".to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn ends_of_certificates() -> anyhow::Result<()> {
        let mut file = tempfile::NamedTempFile::new()?;
        let made = rcgen::generate_simple_self_signed(vec!["a".to_owned()])?;
        file.write_all(made.cert.pem().as_bytes())?;
        let end = first_end(made.cert.pem().as_bytes()).map_err(anyhow::Error::msg)?;
        let mut findings = Findings::default();
        for now in [end, end - Duration::from_secs(60), Duration::ZERO] {
            look_at("grpc.tls_cert", file.path(), now, &mut findings);
        }
        let levels: Vec<_> = findings.0.iter().map(|finding| finding.level).collect();
        assert_eq!(levels, [Level::Error, Level::Warning, Level::Ok]);
        assert!(first_end(b"no certificate").is_err());
        Ok(())
    }
}
