//! What a link's own task answers clients, before the main loop hears of it: what granted readers may not ask, and
//! files of published datasets.

use super::links::frame;
use crate::net::Frame;
use crate::protocol::{FromClient, RefusalKind, Reply, Request, ToClient};
use crate::state::{StateDir, grant};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use tokio::sync::mpsc::WeakSender;

/// Bytes of a file in one answer.
const PART_BYTES: u64 = 4 << 20;

/// Answers the clients of one link.
pub(super) struct Desk {
    pub state: Arc<StateDir>,
    /// The certificate of a granted reader; none: the cluster's owner.
    pub grant: Option<Vec<u8>>,
    pub frames: WeakSender<Frame>,
}

impl Desk {
    /// Answers what it can; the rest is for the main loop.
    ///
    /// # Errors
    /// Why the link ends: the grant was revoked.
    pub(super) async fn take(&self, messages: Vec<FromClient>) -> Result<Vec<FromClient>, String> {
        if let Some(certificate) = &self.grant {
            // Looked at anew each time: a revoked grant is useless at once.
            let (state, certificate) = (self.state.clone(), certificate.clone());
            let counts = tokio::task::spawn_blocking(move || grant::counts(&state, &certificate)).await;
            if !counts.unwrap_or(false) {
                let reason = "this grant was revoked";
                for message in messages {
                    self.answer(message.call, refused(RefusalKind::Permission, reason)).await;
                }
                return Err(reason.to_owned());
            }
        }
        let mut rest = Vec::with_capacity(messages.len());
        for FromClient { call, request } in messages {
            match request {
                request if self.grant.is_some() && !request.only_reads() => {
                    let reason = "a read-only grant changes nothing: ask the cluster's owner";
                    self.answer(call, refused(RefusalKind::Permission, reason)).await;
                }
                Request::Datasets => {
                    let state = self.state.clone();
                    let listed = tokio::task::spawn_blocking(move || datasets(&state)).await;
                    self.answer(call, Reply::Datasets(listed.unwrap_or_default())).await;
                }
                Request::DatasetFile { dataset, file, offset } => {
                    let state = self.state.clone();
                    let read = move || part(&state, &dataset, &file, offset);
                    let read = tokio::task::spawn_blocking(read).await;
                    let reply =
                        read.unwrap_or_else(|_| refused(RefusalKind::Unavailable, "it can't be read"));
                    self.answer(call, reply).await;
                }
                request => rest.push(FromClient { call, request }),
            }
        }
        Ok(rest)
    }

    async fn answer(&self, call: u64, reply: Reply) {
        if let (Some(frames), Some(frame)) = (self.frames.upgrade(), frame(&[ToClient { call, reply }])) {
            // A link that is gone needs no answer.
            let _ = frames.send(frame).await;
        }
    }
}

fn refused(kind: RefusalKind, reason: impl Into<String>) -> Reply {
    Reply::Refused { kind, reason: reason.into() }
}

/// Names with the paths of their folders, those of links resolved.
fn datasets(state: &StateDir) -> Vec<(String, String)> {
    let Ok(entries) = std::fs::read_dir(state.datasets_dir()) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut found: Vec<(String, String)> = names
        .filter(|name| is_plain(name))
        .map(|name| {
            let path = state.datasets_dir().join(&name);
            let path = std::fs::read_link(&path).unwrap_or(path);
            (name, path.display().to_string())
        })
        .collect();
    found.sort();
    found
}

/// A name that leads nowhere else, and is no hidden file's.
fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(plain)
}

fn part(state: &StateDir, dataset: &str, file: &str, offset: u64) -> Reply {
    if !is_plain(dataset) || !is_plain(file) {
        return refused(RefusalKind::Usage, format!("'{dataset}/{file}' can't be a dataset's file"));
    }
    let path = state.datasets_dir().join(dataset).join(file);
    let read = || -> io::Result<Reply> {
        let file = File::open(&path)?;
        let nbytes = file.metadata()?.len();
        let mut part = vec![0; nbytes.saturating_sub(offset).min(PART_BYTES) as usize];
        file.read_exact_at(&mut part, offset)?;
        Ok(Reply::DatasetFile { nbytes, part })
    };
    read().unwrap_or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            refused(RefusalKind::Unknown, format!("no file '{file}' of dataset '{dataset}'"))
        }
        _ => refused(RefusalKind::Unavailable, format!("{}: {error}", path.display())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_datasets_are_given_out() {
        let home = tempfile::tempdir().unwrap();
        let state = StateDir::create(&home.path().join("state"), "default").unwrap();
        std::fs::create_dir(state.datasets_dir().join("wind")).unwrap();
        std::fs::write(state.datasets_dir().join("wind/dataset.toml"), "hello").unwrap();
        let expected = Reply::DatasetFile { nbytes: 5, part: b"llo".to_vec() };
        assert_eq!(part(&state, "wind", "dataset.toml", 2), expected);
        assert_eq!(part(&state, "wind", "dataset.toml", 9), Reply::DatasetFile { nbytes: 5, part: vec![] });
        for (dataset, file) in
            [("..", "cluster.toml"), ("wind", "../../identity/ca.key"), (".x", "y"), ("", "y")]
        {
            let told = part(&state, dataset, file, 0);
            assert!(matches!(told, Reply::Refused { kind: RefusalKind::Usage, .. }), "{dataset} {file}");
        }
        let told = part(&state, "wind", "none", 0);
        assert!(matches!(told, Reply::Refused { kind: RefusalKind::Unknown, .. }));
        assert_eq!(datasets(&state).len(), 1);
    }
}
