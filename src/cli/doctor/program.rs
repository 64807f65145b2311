//! Our own program as jobs will start it, and the JSON jq behind our name.

use super::finding::Finding;
use super::ground::{FileSystem, Ground, is_program, nearest_existing};
use crate::cli::exit::Exit;
use crate::cli::passthrough;

/// The path that job scripts name: absolute, executable, and somewhere that nodes can see.
pub fn own(ground: &Ground) -> Finding {
    let exe = match &ground.exe {
        Ok(exe) => exe,
        Err(error) => {
            let found = format!("the kernel doesn't tell where this program is: {error}");
            return Finding::failed(Exit::Config, found, "mount /proc");
        }
    };
    let name = exe.display();
    if !exe.is_absolute() {
        return Finding::failed(Exit::Config, format!("{name} is no absolute path"), "install it anew");
    }
    if !is_program(exe) {
        // The kernel's note on a program that was replaced while it ran is part of the path.
        let found = format!("{name} is not an executable file");
        return Finding::failed(Exit::Config, found, "install it anew, and keep it as long as clusters run");
    }
    let mut findings = vec![Finding::ok(name.to_string())];
    if exe.file_name().is_none_or(|name| name != "jobq") {
        let found = format!("there is no `jobq` beside {name}, so job scripts name this one");
        findings.push(Finding::warning(found, "install the program under both names, jq and jobq"));
    }
    match (ground.file_system)(nearest_existing(exe)) {
        Ok(FileSystem::Memory) => {
            let found = format!("{name} is in this host's memory, where no other host finds it");
            findings.push(Finding::warning(found, "install it on a disk that the nodes see"));
        }
        Ok(FileSystem::Disk(kind)) if goes_elsewhere(ground) => {
            let found = format!("on a disk of this host ({kind}): nodes must find it at the same path");
            findings.push(Finding::ok(found));
        }
        _ => {}
    }
    Finding::worst(findings)
}

/// What `jq FILTER` becomes.
pub fn json_jq(ground: &Ground) -> Finding {
    let first = ground.on_path("jq");
    match passthrough::json_jq(ground.json_jq.clone(), Some(ground.path.clone())) {
        Ok(path) if first.as_ref() == Some(&path) => {
            let dir = ground.exe.as_ref().ok().and_then(|exe| exe.parent());
            let dir = dir.map_or("our directory".to_owned(), |dir| dir.display().to_string());
            Finding::ok(format!("{} is what `jq` on PATH means", path.display()))
                .advising(format!("type `jobq`, or put {dir} before it on PATH to type `jq up`"))
        }
        Ok(path) => Finding::ok(format!("{} is behind ours", path.display())),
        Err(error) if ground.json_jq.as_ref().is_some_and(|named| !named.is_empty()) => Finding::failed(
            Exit::Config,
            error.message,
            format!("correct or unset {}", passthrough::OVERRIDE),
        ),
        Err(_) => Finding::warning(
            "no JSON jq is on PATH: `jq FILTER` will not work",
            format!("install one (Debian: apt-get install jq), or name it in {}", passthrough::OVERRIDE),
        ),
    }
}

/// Whether jobs may run on other hosts.
fn goes_elsewhere(ground: &Ground) -> bool {
    ground.settings.as_ref().is_ok_and(|settings| {
        crate::batch::system(&settings.profile.system).is_some_and(|system| !system.programs().is_empty())
    })
}
