//! Whoever isn't of the cluster, or says nonsense.

use crate::support::sandbox::Sandbox;
use jobq::protocol::{self, Hello, PeerKind, VERSION};
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::time::Duration;

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target)
        } else {
            drop(fs::copy(entry.path(), target))
        }
    }
}

#[test]
fn an_identity_of_another_cluster_opens_nothing() {
    let sandbox = Sandbox::new();
    sandbox.up(1);
    // A folder that knows where the cluster is, with keys that aren't its own.
    let (ours, theirs) = (sandbox.cluster("default"), sandbox.cluster("stranger"));
    sandbox.run(["up", "--name", "stranger", "--queue", "local", "--workers", "0"]).exits(0);
    sandbox.ok(["down", "--name", "stranger"]);
    for file in ["contact.toml", "cluster.toml"] {
        fs::copy(ours.join(file), theirs.join(file)).unwrap();
    }
    sandbox.run(["status", "--no-revive", "--name", "stranger"]).exits(69).says("can't be reached");

    // One that trusts the cluster's authority, but wasn't certified by it.
    for file in ["ca.pem", "cluster_id"] {
        fs::copy(ours.join("identity").join(file), theirs.join("identity").join(file)).unwrap();
    }
    let refused = sandbox.run(["status", "--no-revive", "--name", "stranger"]);
    assert!([69, 77].contains(&refused.code), "{refused:?}");
    fs::remove_file(theirs.join("contact.toml")).unwrap();
    sandbox.ok(["submit", "--wait", "--", "true"]);
}

#[test]
fn a_workers_certificate_is_no_clients() {
    let sandbox = Sandbox::new();
    sandbox.up(1);
    let (ours, theirs) = (sandbox.cluster("default"), sandbox.cluster("impostor"));
    copy(&ours, &theirs);
    let identity = theirs.join("identity");
    for entry in fs::read_dir(ours.join("identity")).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        if let Some(rest) = name.strip_prefix("worker") {
            fs::copy(ours.join("identity").join(&name), identity.join(format!("admin{rest}"))).unwrap();
        }
    }
    sandbox.run(["status", "--name", "impostor"]).exits(77).says("certificate");
    sandbox.run(["submit", "--name", "impostor", "--", "true"]).exits(77);
    fs::remove_file(theirs.join("contact.toml")).unwrap();
    sandbox.ok(["submit", "--wait", "--", "true"]);
}

/// Numbers that look random, the same ones every time.
struct Lot(u64);

impl Lot {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

/// Says something, and takes what the other side says to it.
fn say(address: &str, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // It may close in the middle of what it takes for nonsense.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
}

#[test]
fn nonsense_and_silence_at_the_port_do_no_harm() {
    let sandbox = Sandbox::new();
    sandbox.up(1);
    let address = sandbox.contact()["addresses"][0].as_str().unwrap().to_owned();
    let silent: Vec<TcpStream> = (0..50).map(|_| TcpStream::connect(&address).unwrap()).collect();
    let mut lot = Lot(0x9e37_79b9_7f4a_7c15);
    for round in 0..400 {
        let count = (lot.next() % 600) as usize;
        let mut bytes = lot.bytes(count);
        if round % 2 == 0 {
            // The beginning of a TLS record, so that the nonsense comes further in.
            let header = [22, 3, 1, (count >> 8) as u8, count as u8];
            bytes.splice(0..0, header);
        }
        say(&address, &bytes);
    }
    sandbox.ok(["submit", "--wait", "--", "true"]);
    drop(silent);
    assert_eq!(sandbox.status()["connected"], 1);
}

#[test]
fn frames_of_nonsense_on_a_cluster_without_tls_do_no_harm() {
    let sandbox = Sandbox::new();
    sandbox.up_with(1, &["--insecure"]);
    let address = sandbox.contact()["addresses"][0].as_str().unwrap().to_owned();
    let hello = hello_frame();
    let mut lot = Lot(42);
    for round in 0..2000 {
        let count = (lot.next() % 200) as usize;
        let mut body = lot.bytes(count);
        let mut bytes = if round % 3 == 0 { Vec::new() } else { hello.clone() };
        if round % 2 == 0 {
            // The shape of a frame, and of a list in it.
            if let Some(first) = body.first_mut() {
                *first = 0x91;
            }
            bytes.extend(frame(&body));
        } else {
            bytes.extend(body);
        }
        say(&address, &bytes);
    }
    sandbox.ok(["submit", "--wait", "--", "true"]);
    assert_eq!(sandbox.status()["epoch"], 1);
}

/// The first frame of a client.
fn hello_frame() -> Vec<u8> {
    let hello = Hello { version: VERSION, kind: PeerKind::Client };
    frame(&protocol::encode(&[hello]).unwrap())
}

/// A frame without values.
fn frame(header: &[u8]) -> Vec<u8> {
    let length = u32::try_from(header.len()).unwrap().to_le_bytes();
    [&length[..], &[0], header].concat()
}
