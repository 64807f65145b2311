//! Starts a program without copying this process first.
//!
//! A fork copies the page tables: measured here, 40 ms for each GiB that a worker holds, with its memory locked
//! all the while. `posix_spawn` doesn't copy, but can't ask for a death signal. So this does what it does
//! inside: a child that shares the memory (`clone(2)` with `CLONE_VM | CLONE_VFORK`) and runs on a stack of its
//! own until it executes the program, while the calling thread is held. 0.7 ms, however large the worker is.

use nix::libc::{self, c_char, c_int, c_void};
use nix::unistd::Pid;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use super::environment::Environment;

/// Bytes for the child until its exec: a dozen calls, none of them deep.
const STACK: usize = 64 << 10;
/// Runs what the kernel takes for no program: scripts without a first line that names their interpreter.
const SHELL: &std::ffi::CStr = c"/bin/sh";
/// Code of a child that couldn't execute its program; the error itself comes back in memory.
const NOT_EXECUTED: c_int = 127;
/// Raises the child above the worker when the kernel chooses whom to kill for memory.
const OOM_SCORE: &[u8] = b"500";
/// One more than the highest signal number.
const SIGNALS: c_int = 65;

/// What to start.
pub(super) struct Start<'a> {
    /// An absolute path.
    pub(super) program: &'a Path,
    pub(super) argv: &'a [OsString],
    pub(super) env: &'a Environment,
    pub(super) cwd: &'a Path,
    /// Standard input, output and error.
    pub(super) stdio: [&'a OwnedFd; 3],
}

/// All that the child reads, made before it exists; and the error that it writes.
struct ChildPlan {
    program: *const c_char,
    argv: *const *const c_char,
    /// The shell, the program and its arguments.
    shell_argv: *const *const c_char,
    envp: *const *const c_char,
    cwd: *const c_char,
    stdio: [RawFd; 3],
    parent: libc::pid_t,
    error: c_int,
}

/// Starts it in a session of its own, with default signals, to be killed when the calling *thread* ends, and
/// rather than this process when memory runs out. The caller has to collect the child (`process::reap`).
///
/// # Errors
/// That of the step that failed; a word with a zero byte in it is `InvalidInput`.
pub(super) fn spawn(start: &Start<'_>) -> io::Result<Pid> {
    let program = c_string(start.program.as_os_str())?;
    let cwd = c_string(start.cwd.as_os_str())?;
    let argv: Vec<CString> = start.argv.iter().map(|w| c_string(w)).collect::<io::Result<_>>()?;
    let env: Vec<CString> = start.env.iter().map(|(k, v)| variable(k, v)).collect::<io::Result<_>>()?;
    let (argv_pointers, envp) = (pointers(&argv, &[]), pointers(&env, &[]));
    let shell_argv = pointers(argv.get(1..).unwrap_or_default(), &[SHELL.as_ptr(), program.as_ptr()]);
    // The child puts them in 0 to 2 one after the other: none may be there already.
    // Rust duplicates to 3 or more, closed on exec.
    let [stdin, stdout, stderr] = start.stdio;
    let spares = [stdin.try_clone()?, stdout.try_clone()?, stderr.try_clone()?];
    let mut plan = ChildPlan {
        program: program.as_ptr(),
        argv: argv_pointers.as_ptr(),
        shell_argv: shell_argv.as_ptr(),
        envp: envp.as_ptr(),
        cwd: cwd.as_ptr(),
        stdio: [spares[0].as_raw_fd(), spares[1].as_raw_fd(), spares[2].as_raw_fd()],
        parent: Pid::this().as_raw(),
        error: 0,
    };
    clone_and_run(&mut plan)
}

fn clone_and_run(plan: &mut ChildPlan) -> io::Result<Pid> {
    let mut stack: Vec<u128> = vec![0; STACK / size_of::<u128>()];
    let plan: *mut ChildPlan = plan;
    // SAFETY: the sets are plain data that the calls fill. The child gets a live stack, aligned to 16 bytes, of
    // which it is given the end as it grows downwards, and a plan that outlives it: CLONE_VFORK holds this
    // thread until the child has executed its program or has ended, so nobody else touches either meanwhile.
    // All signals are blocked around it, so that no handler of ours runs in the child.
    unsafe {
        let mut all = std::mem::zeroed();
        let mut before = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let top = stack.as_mut_ptr_range().end;
        let pid = libc::clone(child, top.cast(), flags, plan.cast());
        let clone_error = io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut());
        if pid < 0 {
            return Err(clone_error);
        }
        // Written behind the compiler's back.
        match ptr::read_volatile(&raw const (*plan).error) {
            0 => Ok(Pid::from_raw(pid)),
            error => {
                libc::waitpid(pid, ptr::null_mut(), 0);
                Err(io::Error::from_raw_os_error(error))
            }
        }
    }
}

/// The child, in the parent's memory: system calls only, no allocation, no lock, no panic.
extern "C" fn child(plan: *mut c_void) -> c_int {
    let plan: *mut ChildPlan = plan.cast();
    // SAFETY: the parent made the plan, holds it, and waits. All pointers in it are to C strings or to
    // null-terminated arrays of them, which the parent holds too.
    unsafe {
        if !prepare(&*plan) {
            return give_up(plan);
        }
        libc::execve((*plan).program, (*plan).argv, (*plan).envp);
        if *libc::__errno_location() == libc::ENOEXEC {
            libc::execve(SHELL.as_ptr(), (*plan).shell_argv, (*plan).envp);
        }
        give_up(plan)
    }
}

/// Everything between the clone and the exec; `false`: `errno` says why not.
///
/// # Safety
/// To be called in the child only, with a plan as `child` gets it.
unsafe fn prepare(plan: &ChildPlan) -> bool {
    // SAFETY: system calls on numbers, and on C strings and buffers that live as long as the plan.
    unsafe {
        default_signals();
        if libc::setsid() < 0 || libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) < 0 {
            return false;
        }
        // The parent may have died before that; then nobody would send the signal any more.
        if libc::getppid() != plan.parent {
            *libc::__errno_location() = libc::ESRCH;
            return false;
        }
        let score = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if score >= 0 {
            // A kernel that refuses only chooses by size.
            libc::write(score, OOM_SCORE.as_ptr().cast(), OOM_SCORE.len());
            libc::close(score);
        }
        let [stdin, stdout, stderr] = plan.stdio;
        if libc::dup2(stdin, 0) < 0 || libc::dup2(stdout, 1) < 0 || libc::dup2(stderr, 2) < 0 {
            return false;
        }
        // What the worker itself inherited isn't the task's. Kernels before 5.11 don't know this, and all that
        // this program opens is closed on exec anyway.
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
        if libc::chdir(plan.cwd) < 0 {
            return false;
        }
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &none, ptr::null_mut()) == 0
    }
}

/// Handlers would run in the parent's memory once signals are unblocked; and SIGPIPE, which Rust programs
/// ignore, would stay ignored in the program. Those that somebody ignored on purpose (nohup) stay so.
///
/// # Safety
/// To be called in the child only.
unsafe fn default_signals() {
    // SAFETY: the child has a table of its own (no CLONE_SIGHAND), and the action is plain data. Numbers that
    // are no signals, or can't be changed, are refused without harm.
    unsafe {
        for signal in 1..SIGNALS {
            let mut action: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(signal, ptr::null(), &mut action) != 0 {
                continue;
            }
            let handled = action.sa_sigaction != libc::SIG_DFL && action.sa_sigaction != libc::SIG_IGN;
            if handled || (signal == libc::SIGPIPE && action.sa_sigaction == libc::SIG_IGN) {
                action = std::mem::zeroed();
                action.sa_sigaction = libc::SIG_DFL;
                libc::sigaction(signal, &action, ptr::null_mut());
            }
        }
    }
}

/// Leaves the error where the parent finds it, and ends.
///
/// # Safety
/// To be called in the child only, with a plan as `child` gets it.
unsafe fn give_up(plan: *mut ChildPlan) -> c_int {
    // SAFETY: the parent waits, and reads it only afterwards. `_exit` runs nothing of the parent's.
    unsafe {
        let error = (*libc::__errno_location()).max(1);
        ptr::write_volatile(&raw mut (*plan).error, error);
        libc::_exit(NOT_EXECUTED)
    }
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| zero_byte(text))
}

fn variable(name: &OsStr, value: &OsStr) -> io::Result<CString> {
    let text = [name.as_bytes(), b"=", value.as_bytes()].concat();
    CString::new(text).map_err(|_| zero_byte(name))
}

fn zero_byte(text: &OsStr) -> io::Error {
    let text = text.as_bytes().escape_ascii();
    io::Error::new(io::ErrorKind::InvalidInput, format!("no word or variable can have a zero byte ({text})"))
}

/// A null-terminated array of `first` and then `strings`, which must outlive it.
fn pointers(strings: &[CString], first: &[*const c_char]) -> Vec<*const c_char> {
    let strings = strings.iter().map(|s| s.as_ptr());
    first.iter().copied().chain(strings).chain([ptr::null()]).collect()
}
