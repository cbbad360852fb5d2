//! The log as a file a day.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::{Mutex, MutexGuard};
use tracing_subscriber::fmt::MakeWriter;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Files `<name>.<YYYY-MM-DD>.log`, by days of UTC.
#[derive(Clone, Debug)]
pub struct Files {
    /// Where they are; it is made.
    pub directory: PathBuf,
    /// What they begin with. Processes of one name may share them.
    pub name: String,
    /// Files older than so many days are removed.
    pub keep_days: u16,
    /// A file that has so many bytes takes no more lines.
    pub max_bytes: u64,
}

/// Where log lines go. Clones share the file.
#[derive(Clone)]
pub(crate) struct DailyFile(Arc<Mutex<Today>>);

pub(crate) struct Today {
    files: Files,
    /// Days since 1970.
    day: u64,
    file: File,
    bytes: u64,
    /// Lines that it did not take.
    full: bool,
}

impl DailyFile {
    pub(crate) fn open(files: Files) -> io::Result<Self> {
        fs::create_dir_all(&files.directory)?;
        Ok(Self(Arc::new(Mutex::new(Today::open(files, today())?))))
    }
}

fn today() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_secs() / DAY.as_secs()
}

impl Today {
    fn open(files: Files, day: u64) -> io::Result<Self> {
        let path = files.directory.join(format!("{}.{}.log", files.name, date(day)));
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let bytes = file.metadata()?.len();
        files.remove_old(day);
        Ok(Self {
            files,
            day,
            file,
            bytes,
            full: false,
        })
    }

    fn write(&mut self, line: &[u8], today: u64) -> io::Result<()> {
        if today > self.day {
            *self = Self::open(self.files.clone(), today)?;
        }
        if self.bytes.saturating_add(line.len() as u64) > self.files.max_bytes {
            if !self.full {
                self.full = true;
                self.file.write_all(b"this file is full: log.max_mb\n")?;
            }
            return Ok(());
        }
        self.file.write_all(line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }
}

impl Files {
    /// What cannot be removed stays; the next day tries again.
    fn remove_old(&self, today: u64) {
        let Ok(entries) = fs::read_dir(&self.directory) else {
            return;
        };
        let oldest = date(today.saturating_sub(u64::from(self.keep_days).saturating_sub(1)));
        for entry in entries.flatten() {
            let name = entry.file_name();
            let date = name.to_str().and_then(|name| {
                name.strip_prefix(&self.name)?
                    .strip_prefix('.')?
                    .strip_suffix(".log")
            });
            if date.is_some_and(|date| is_date(date) && date < oldest.as_str()) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// `YYYY-MM-DD` of a day since 1970 (Howard Hinnant, "chrono-compatible low-level date algorithms": the year begins in
/// March, so that the leap day is its last).
fn date(day: u64) -> String {
    let day = day + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

fn is_date(text: &str) -> bool {
    text.len() == 10
        && text.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        })
}

/// One line, written whole.
pub(crate) struct Line<'a>(MutexGuard<'a, Today>);

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write(line, today())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.file.flush()
    }
}

impl<'a> MakeWriter<'a> for DailyFile {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self.0.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (day, text) in [
            (0, "1970-01-01"),
            (58, "1970-02-28"),
            (59, "1970-03-01"),
            (11_016, "2000-02-29"),
            (20_453, "2025-12-31"),
            (20_454, "2026-01-01"),
        ] {
            assert_eq!(date(day), text);
        }
    }

    #[test]
    fn a_file_a_day_and_none_too_old_or_too_large() -> io::Result<()> {
        let directory = std::env::temp_dir().join(format!("fanfare-logs-{}", std::process::id()));
        let files = Files {
            directory: directory.clone(),
            name: "fanfare-gateway".to_owned(),
            keep_days: 3,
            max_bytes: 20,
        };
        fs::create_dir_all(&directory)?;
        for other in [
            "notes.txt",
            "fanfare-gateway.backup.log",
            "fanfare-fanout.1970-01-01.log",
        ] {
            fs::write(directory.join(other), "")?;
        }
        let mut log = Today::open(files, 100)?;
        for day in 100..110 {
            for line in ["first\n", "second\n", "third\n", "fourth\n"] {
                log.write(line.as_bytes(), day)?;
            }
        }
        let mut names: Vec<_> = fs::read_dir(&directory)?
            .map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default()))
            .collect::<io::Result<_>>()?;
        names.sort();
        let kept = [107, 108, 109].map(|day| format!("fanfare-gateway.{}.log", date(day)));
        let expected = [
            "fanfare-fanout.1970-01-01.log",
            &kept[0],
            &kept[1],
            &kept[2],
            "fanfare-gateway.backup.log",
            "notes.txt",
        ];
        assert_eq!(names, expected);
        let text = fs::read_to_string(directory.join(&kept[2]))?;
        assert_eq!(text, "first\nsecond\nthird\nthis file is full: log.max_mb\n");
        fs::remove_dir_all(directory)
    }
}
