//! What a scheduler stands on: links, an address, its own contact, and the core's configuration.

use super::own_job::OwnJob;
use crate::config::Settings;
use crate::graph::Resources;
use crate::net::{Listener, Transport};
use crate::protocol::{self, SchedulerReport};
use crate::scheduler::core::CoreConfig;
use crate::scheduler::spec::ClusterSpec;
use crate::state::{ClusterFile, Contact, Holder, Role, StateDir, identity};
use std::time::{SystemTime, UNIX_EPOCH};
use tracing::{info, warn};

/// TLS by the cluster's identity in that role, or none if the cluster was brought up so.
///
/// # Errors
/// The identity can't be read or used.
pub fn transport(state: &StateDir, spec: &ClusterSpec, role: Role) -> anyhow::Result<Transport> {
    if spec.insecure {
        return Ok(Transport::insecure());
    }
    // Workers have no business with the authority's key.
    if role != Role::Worker {
        renew(state);
    }
    Ok(Transport::tls(&state.identity(role)?)?)
}

/// Certificates that get old are made anew by whoever uses them, long before they expire. Where that can't be done, they
/// still count for a while.
fn renew(state: &StateDir) {
    match identity::renew_if_due(&state.identity_dir()) {
        Ok(true) => info!("the certificates of cluster {} were old, and are new ones now", state.name()),
        Ok(false) => {}
        Err(error) => warn!("the cluster's certificates are not renewed: {error}"),
    }
}

pub(super) fn listen(settings: &Settings) -> anyhow::Result<Listener> {
    let interface =
        [&settings.scheduler.interface, &settings.profile.interface].into_iter().find(|i| !i.is_empty());
    let ports = settings.scheduler.port_range;
    let ports = (!ports.is_any()).then_some(ports.first..=ports.last);
    Ok(Listener::bind(interface.map(String::as_str), ports)?)
}

pub(super) fn contact(
    state: &StateDir,
    listener: &Listener,
    epoch: u32,
    file: &ClusterFile,
    job: Option<&OwnJob>,
) -> anyhow::Result<Contact> {
    let holder = Holder::current()?;
    Ok(Contact {
        addresses: listener.addresses(),
        epoch,
        cluster_id: file.cluster_id,
        pid: holder.pid,
        start_time: holder.start_time,
        boot_id: holder.boot_id,
        host: crate::net::listen::host_name().unwrap_or_default(),
        started_unix: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        version: env!("CARGO_PKG_VERSION").into(),
        log: job.map_or_else(|| state.path().join("scheduler.log"), |job| job.log.clone()),
        life: file.life.clone(),
        job: job.map_or(String::new(), |job| job.id.clone()),
        job_name: job.map_or(String::new(), |job| job.name.clone()),
    })
}

/// Where this scheduler runs, for people.
pub(super) fn scheduler_report(
    state: &StateDir,
    spec: &ClusterSpec,
    job: Option<&OwnJob>,
) -> SchedulerReport {
    SchedulerReport {
        host: crate::net::listen::host_name().unwrap_or_default(),
        pid: std::process::id(),
        job: job.map_or(String::new(), |job| job.id.clone()),
        queue: job.map_or(String::new(), |job| spec.scheduler_job(state, &job.name).queue),
        ends_unix: job.map_or(0, |job| job.ends_unix),
        ..SchedulerReport::default()
    }
}

pub(super) fn core_config(
    spec: &ClusterSpec,
    epoch: u32,
    first_allocation: u32,
    scheduler: SchedulerReport,
) -> CoreConfig {
    let settings = &spec.settings;
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    CoreConfig {
        epoch: protocol::Epoch(epoch),
        workers: spec.workers,
        first_allocation,
        unix_nanos_at_zero: u64::try_from(unix.as_nanos()).unwrap_or(0),
        heartbeat: settings.scheduler.heartbeat,
        silence: settings.scheduler.heartbeat * 3,
        death_timeout: settings.worker.death_timeout,
        max_workers_lost: u8::try_from(settings.task.allowed_failures).unwrap_or(u8::MAX).max(1),
        workers_per_allocation: settings.profile.workers_per_job.max(1),
        worker_shape: Some(Resources {
            cores: settings.profile.cores.max(1),
            memory: settings.profile.memory,
            named: settings.profile.resources.iter().map(|(n, count)| (n.clone(), *count)).collect(),
        }),
        max_pending_allocations: settings.scheduler.max_pending,
        max_submits_per_minute: settings.scheduler.submits_per_minute,
        poll_interval: settings.scheduler.poll_interval,
        keep_settled: settings.scheduler.history,
        scheduler,
        ..CoreConfig::default()
    }
}
