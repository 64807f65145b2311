//! A real Slurm of eight nodes on this machine, in a directory and a port range of its own: started by the test,
//! stopped by pid when the test is done. Runs as root or as a plain user.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::eventually_sync;

/// Nodes of the cluster: `node1`..`node8`, 4 cores and 18000 MB each; 1-6 in `spice`, 7-8 in `short` and in `brief`.
pub const NODES: u16 = 8;

/// Ports of one cluster: the controller's and one a node.
const PORTS: u16 = NODES + 1;

/// What the daemons and tests run; all but `munged` come with Slurm.
const PROGRAMS: [&str; 4] = ["slurmctld", "slurmd", "munged", "sbatch"];

/// How long cancelled jobs may take to go.
const GOODBYE: std::time::Duration = std::time::Duration::from_secs(30);

/// A running cluster.
pub struct Slurm {
    dir: tempfile::TempDir,
    base_port: u16,
    munged: Option<Child>,
    controller: Option<Child>,
    nodes: Vec<Child>,
}

/// A cluster, or `None` after saying what is missing; the test then returns.
///
/// # Panics
/// If Slurm is missing and `JOBQ_TEST_REQUIRE_ALL` is 1.
pub fn start(test: &str) -> Option<Slurm> {
    if let Some(missing) = PROGRAMS.iter().find(|program| find(program).is_none()) {
        let words = format!(
            "skipped: {test}: {missing} is not installed (apt-get install slurmctld slurmd slurm-client munge slurm-wlm-basic-plugins)"
        );
        assert!(std::env::var("JOBQ_TEST_REQUIRE_ALL").as_deref() != Ok("1"), "{words}");
        eprintln!("{words}");
        return None;
    }
    Some(Slurm::start())
}

/// A program on PATH or where daemons live.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from));
    dirs.map(|dir| dir.join(program)).find(|file| file.is_file())
}

fn program(name: &str) -> Command {
    let mut command = Command::new(find(name).unwrap_or_else(|| name.into()));
    let ours =
        |name: &str| name.starts_with("SLURM_") || name.starts_with("SBATCH_") || name.starts_with("SQUEUE_");
    for (name, _) in std::env::vars().filter(|(name, _)| ours(name)) {
        command.env_remove(name);
    }
    command
}

impl Slurm {
    fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("jobq-slurm-").tempdir().unwrap();
        let slurm = Self { dir, base_port: free_ports(), munged: None, controller: None, nodes: Vec::new() };
        let mut slurm = slurm.write_files();
        slurm.start_munge();
        slurm.start_controller(true);
        for node in 1..=NODES {
            let child = slurm.daemon("slurmd", &["-D", "-N", &format!("node{node}")]);
            slurm.nodes.push(child);
        }
        eventually_sync("eight idle nodes", || {
            let states = slurm.run("sinfo", &["-h", "-N", "-o", "%N %T"]);
            let text = String::from_utf8_lossy(&states.stdout).into_owned();
            let idle: std::collections::BTreeSet<&str> =
                text.lines().filter(|line| line.ends_with(" idle")).collect();
            (idle.len() == usize::from(NODES)).then_some(())
        });
        slurm
    }

    /// The directory of everything, for a test's own files too.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What a program needs in its environment to use this cluster.
    pub fn env(&self) -> Vec<(String, String)> {
        vec![("SLURM_CONF".to_owned(), self.path("etc/slurm.conf").display().to_string())]
    }

    /// Run a client command.
    pub fn run(&self, name: &str, args: &[&str]) -> Output {
        program(name).args(args).envs(self.env()).stdin(Stdio::null()).output().unwrap()
    }

    /// `squeue` with its long states: `id state name`, a line a job, ended ones not included.
    pub fn squeue(&self) -> Vec<String> {
        let output = self.run("squeue", &["-h", "-r", "-o", "%i %T %j"]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }

    /// `scontrol` with these arguments; what it printed.
    ///
    /// # Panics
    /// If it fails.
    pub fn scontrol(&self, args: &[&str]) -> String {
        let output = self.run("scontrol", args);
        assert!(output.status.success(), "scontrol {args:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Let the controller hang: it takes connections and never answers.
    pub fn stop_controller(&self) {
        self.signal_controller(Signal::SIGSTOP);
    }

    /// Let it go on.
    pub fn continue_controller(&self) {
        self.signal_controller(Signal::SIGCONT);
    }

    /// The same, if it was not killed.
    pub fn continue_controller_if_there(&self) {
        if self.controller.is_some() {
            self.continue_controller();
        }
    }

    /// The authentication service ends.
    pub fn kill_munge(&mut self) {
        if let Some(mut munged) = self.munged.take() {
            kill(pid(&munged), Signal::SIGTERM).unwrap();
            munged.wait().unwrap();
        }
    }

    /// Start it again.
    pub fn restart_munge(&mut self) {
        self.kill_munge();
        self.start_munge();
    }

    /// Kill the controller, as a crash of its host would.
    pub fn kill_controller(&mut self) {
        if let Some(mut controller) = self.controller.take() {
            controller.kill().unwrap();
            controller.wait().unwrap();
        }
    }

    /// Start a controller again; jobs are recovered.
    pub fn restart_controller(&mut self) {
        self.kill_controller();
        self.start_controller(false);
        eventually_sync("a controller that answers", || {
            self.run("scontrol", &["ping"]).status.success().then_some(())
        });
    }

    /// The daemon of `node` (1 to 8) crashes; what ran there goes on as orphans.
    pub fn kill_node(&mut self, node: u16) {
        let daemon = &mut self.nodes[usize::from(node) - 1];
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    fn signal_controller(&self, signal: Signal) {
        let controller = self.controller.as_ref().expect("the controller was not killed");
        kill(pid(controller), signal).unwrap();
    }

    /// Every process that was started with this cluster's configuration: daemons, steps and jobs.
    fn processes(&self) -> Vec<Pid> {
        let (_, conf) = self.env().remove(0);
        let wanted = format!("SLURM_CONF={conf}");
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let ours = |pid: &i32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|&byte| byte == 0).any(|entry| entry == wanted.as_bytes())
        };
        pids.filter(ours).map(Pid::from_raw).collect()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn start_munge(&mut self) {
        let option = |name: &str, file: &str| format!("--{name}={}", self.path(file).display());
        let args = [
            "--foreground".to_owned(),
            option("socket", "run/munge.socket"),
            option("key-file", "etc/munge.key"),
            option("pid-file", "run/munged.pid"),
            option("log-file", "log/munged.log"),
            option("seed-file", "run/munged.seed"),
        ];
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.munged = Some(self.daemon("munged", &args));
        eventually_sync("munged's socket", || self.path("run/munge.socket").exists().then_some(()));
    }

    fn start_controller(&mut self, forget: bool) {
        let args: &[&str] = if forget { &["-D", "-c"] } else { &["-D"] };
        self.controller = Some(self.daemon("slurmctld", args));
    }

    fn daemon(&self, name: &str, args: &[&str]) -> Child {
        let log = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.path(&format!("log/{name}.out")))
            .unwrap();
        let mut command = program(name);
        command.args(args).envs(self.env()).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        // In a group of its own: a Ctrl-C on the tests must not end it before its jobs.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.spawn().unwrap()
    }

    fn write_files(self) -> Self {
        // Jobs of every user write below it.
        fs::set_permissions(self.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["etc", "run", "log", "spool/ctld", "spool/d"] {
            fs::create_dir_all(self.path(name)).unwrap();
        }
        for node in 1..=NODES {
            let scratch = self.path(&format!("nodetmp/node{node}"));
            fs::create_dir_all(&scratch).unwrap();
            fs::set_permissions(&scratch, fs::Permissions::from_mode(0o1777)).unwrap();
        }
        let mut key = [0; 1024];
        getrandom::fill(&mut key).unwrap();
        let mut file = fs::File::create(self.path("etc/munge.key")).unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
        file.write_all(&key).unwrap();
        fs::write(self.path("etc/cgroup.conf"), "CgroupPlugin=cgroup/v1\n").unwrap();
        fs::write(self.path("etc/slurm.conf"), self.configuration()).unwrap();
        self
    }

    /// Schedules at once, gives up on nodes soon, and gives a job only the cores that it asks for.
    fn configuration(&self) -> String {
        let host = nix::unistd::gethostname().unwrap().to_string_lossy().into_owned();
        let host = host.split('.').next().unwrap();
        let user = nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap().unwrap().name;
        let dir = self.dir.path().display();
        let (base, last) = (self.base_port, self.base_port + NODES);
        format!(
            "ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={base}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={dir}/run/munge.socket,cred_expire=5
CredType=cred/munge
SlurmctldPidFile={dir}/run/slurmctld.pid
SlurmdPidFile={dir}/run/slurmd.%n.pid
SlurmctldLogFile={dir}/log/slurmctld.log
SlurmdLogFile={dir}/log/slurmd.%n.log
StateSaveLocation={dir}/spool/ctld
SlurmdSpoolDir={dir}/spool/d/%n
TmpFS={dir}/nodetmp/%n
MpiDefault=none
SwitchType=switch/none
TaskPlugin=task/none
ProctrackType=proctrack/linuxproc
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=500
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
ReturnToService=1
MinJobAge=60
KillWait=5
SlurmdTimeout=5
SlurmctldTimeout=10
MessageTimeout=10
NodeName=node[1-{NODES}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=4 RealMemory=18000 State=UNKNOWN
PartitionName=spice Nodes=node[1-6] Default=YES MaxTime=06:00:00 DefaultTime=00:10:00 State=UP
PartitionName=short Nodes=node[7-{NODES}] MaxTime=00:05:00 DefaultTime=00:01:00 State=UP
PartitionName=brief Nodes=node[7-{NODES}] MaxTime=00:02:00 DefaultTime=00:01:00 State=UP
",
            first = base + 1,
        )
    }
}

impl Drop for Slurm {
    /// Jobs first: they would outlive the daemons. Nothing here panics, since a failing test comes by here too.
    fn drop(&mut self) {
        if let Some(controller) = &self.controller {
            let _ = kill(pid(controller), Signal::SIGCONT);
            let user = nix::unistd::getuid().to_string();
            let _ = self.run("scancel", &["-u", &user]);
            let left = || self.run("squeue", &["-h", "-o", "%i"]);
            let started = std::time::Instant::now();
            while started.elapsed() < GOODBYE && !left().stdout.is_empty() {
                std::thread::sleep(super::PAUSE);
            }
        }
        let daemons = self.nodes.iter_mut().chain(&mut self.controller).chain(&mut self.munged);
        for daemon in daemons {
            // One that was killed by its test has been reaped, and its number may be somebody else's.
            if let Ok(None) = daemon.try_wait() {
                let _ = kill(pid(daemon), Signal::SIGTERM);
                let _ = daemon.wait();
            }
        }
        // Orphans of nodes that were killed, and jobs of a controller that was.
        for orphan in self.processes() {
            let _ = kill(orphan, Signal::SIGKILL);
        }
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

/// The first of [`PORTS`] free ports in a row, below the range from which the kernel gives ports to clients.
fn free_ports() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Tests of several processes begin at different places.
    let seed = u16::try_from(std::process::id() % 1000).unwrap();
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let base = 10_000 + (seed.wrapping_mul(17).wrapping_add(step) % 2_000) * 10;
        let listeners: Result<Vec<_>, _> =
            (base..base + PORTS).map(|port| TcpListener::bind(("0.0.0.0", port))).collect();
        if listeners.is_ok() {
            return base;
        }
    }
}
