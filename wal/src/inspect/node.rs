//! A node's directory: the identity of the node, and the directories of its streams.
//!
//! In:     a path: a node's directory, or one stream's.
//! Out:    the streams in the directory; what the identity file says that they must be.
//! Cost:   one small file and a listing. No lock is taken.
//! Fails:  with [`InspectError`]; an identity that does not hold is a [`Finding`].

use super::{Finding, InspectError};
use crate::home::{Identity, SHARD_PREFIX, is_half_made, shard_dir};
use crate::openings::{self, OpeningsFile};
use std::io;
use std::path::{Path, PathBuf};

/// The node, or the single stream, that a path turned out to be.
#[derive(Debug)]
pub struct Node {
    /// The identity of the node; `None` for a single stream's directory, and where the identity file does not hold.
    pub identity: Option<Identity>,
    /// The node's streams.
    pub streams: Vec<Stream>,
    /// The faults of the identity file, and the files that are missing beside it.
    pub findings: Vec<Finding>,
}

/// One stream's directory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stream {
    /// The stream's number, as far as it is known without the stream's manifest.
    pub shard: Option<u32>,
    /// The stream's directory.
    pub dir: PathBuf,
}

impl Node {
    /// Looks at `dir`.
    ///
    /// # Errors
    /// [`InspectError::Io`] if the directory cannot be listed, or its identity or its openings cannot be read.
    pub fn look(dir: &Path) -> Result<Self, InspectError> {
        let error = |source| InspectError::Io { file: dir.to_owned(), source };
        let mut streams = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(error)? {
            let entry = entry.map_err(error)?;
            let name = entry.file_name();
            let shard = name.to_string_lossy().strip_prefix(SHARD_PREFIX).map(str::parse);
            if let Some(Ok(shard)) = shard
                && shard_dir(dir, shard) == entry.path()
            {
                streams.push(Stream { shard: Some(shard), dir: entry.path() });
            }
        }
        streams.sort_by_key(|stream| stream.shard);
        let file = Identity::file(dir);
        let mut node = Self { identity: None, streams, findings: Vec::new() };
        if is_half_made(dir) {
            node.streams.clear();
            let what = "the making of it was cut short, and is taken up again when it is repeated";
            let (label, file, what) = ("half_made_directory", dir.to_owned(), what.to_owned());
            let groups = Vec::new();
            node.findings.push(Finding { label, damage: false, file, offset: 0, groups, what });
            return Ok(node);
        }
        let mut find = |label, file: PathBuf, what: &str| {
            let (groups, what) = (Vec::new(), what.to_owned());
            node.findings.push(Finding { label, damage: true, file, offset: 0, groups, what });
        };
        match Identity::read(dir) {
            Ok(Ok(mut identity)) => {
                for shard in 0..identity.shards {
                    if !node.streams.iter().any(|stream| stream.shard == Some(shard)) {
                        let what = "the identity file says there is one";
                        find("missing_shard", shard_dir(dir, shard), what);
                    }
                }
                let file_of_openings = OpeningsFile::path(dir);
                match openings::peek(dir) {
                    Ok(Ok(now)) => {
                        identity.incarnation = now.incarnation;
                        if !now.refusal.is_empty() {
                            find("refused_directory", file_of_openings, &now.refusal);
                        }
                    }
                    Ok(Err(what)) => find("damaged_openings", file_of_openings, what),
                    Err(source) if source.kind() == io::ErrorKind::NotFound => {
                        find("damaged_openings", file_of_openings, "there is none");
                    }
                    Err(source) => return Err(InspectError::Io { file: file_of_openings, source }),
                }
                node.identity = Some(identity);
            }
            Ok(Err(what)) => find("damaged_identity", file, what),
            Err(source) if source.kind() == io::ErrorKind::NotFound => {
                if node.streams.is_empty() {
                    node.streams.push(Stream { shard: None, dir: dir.to_owned() });
                } else {
                    find("damaged_identity", file, "there is none");
                }
            }
            Err(source) if source.kind() == io::ErrorKind::InvalidData => {
                find("damaged_identity", file, "it is not text");
            }
            Err(source) => return Err(InspectError::Io { file, source }),
        }
        Ok(node)
    }
}
