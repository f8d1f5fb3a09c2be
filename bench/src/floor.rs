//! The floor of the hardware: the least time that a replicated, durable write can take on this machine.
//!
//! In:     a directory on the disk in question, seconds per part.
//! Out:    [`Floor`]: a durable 4 KiB write; a 128 B round trip through loopback; and both together, as three
//!         processes that do what every Raft does for one write and nothing else: the leader sends to two followers and
//!         writes, each follower writes and answers, the leader replies when its own write and one answer are there.
//! Cost:   three times the seconds, and four other processes.
//! Fails:  when the disk does not take direct writes, or a process cannot be started.
//! Source: Ongaro thesis §10.2.1 (the leader writes beside its followers). Latency targets are multiples of this.
//!
//! The other processes are this program again: its `main` must call [`run_if_asked`] first.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, IoSlice, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use rustix::io::ReadWriteFlags;
use serde::Serialize;

/// The measurements of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Floor {
    /// One durable 4 KiB write, O_DIRECT and RWF_DSYNC, into blocks already written.
    pub disk_us: Quantiles,
    /// 128 B to another process through loopback TCP, and back.
    pub loopback_us: Quantiles,
    /// Three disks and their sockets with no protocol: from a client's request to its reply.
    pub together_us: Quantiles,
}

/// Quantiles of one distribution, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Quantiles {
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Operations measured.
    pub count: u64,
}

impl Quantiles {
    fn of(times: &Histogram<u64>) -> Self {
        let at = |quantile| times.value_at_quantile(quantile) as f64 / 1e3;
        Self { p50: at(0.5), p99: at(0.99), count: times.len() }
    }
}

impl std::fmt::Display for Floor {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(out, "{:<48}{:>8}{:>8}{:>10}", "microseconds", "p50", "p99", "count")?;
        for (name, quantiles) in [
            ("4 KiB durable write (O_DIRECT, RWF_DSYNC)", self.disk_us),
            ("128 B loopback round trip", self.loopback_us),
            ("both: three processes, majority, no protocol", self.together_us),
        ] {
            let Quantiles { p50, p99, count } = quantiles;
            writeln!(out, "{name:<48}{p50:>8.1}{p99:>8.1}{count:>10}")?;
        }
        Ok(())
    }
}

/// Measures the three parts in turns, `seconds` each over all, with files in a new directory inside `dir`.
///
/// In turns, because what else the machine does changes by the second: a part measured alone would not be
/// comparable to the others.
///
/// # Errors
///
/// Any failure to make files, to write them directly, or to run and reach the other processes.
pub fn measure(dir: &Path, seconds: f64) -> io::Result<Floor> {
    let directory = tempfile::Builder::new().prefix("logdrive-floor-").tempdir_in(dir)?;
    let file = |name: &str| directory.path().join(name);

    let mut disk = Disk::create(&file("alone"))?;
    let echo = Process::start(&["echo"])?;
    let mut echo_stream = connect(echo.address)?;
    let followers = [
        Process::start(&["follower".as_ref(), file("one").as_os_str()])?,
        Process::start(&["follower".as_ref(), file("two").as_os_str()])?,
    ];
    let [one, two] = [0, 1].map(|at| followers[at].address.to_string());
    let leader =
        Process::start(&["leader".as_ref(), file("zero").as_os_str(), one.as_ref(), two.as_ref()])?;
    let mut leader_stream = connect(leader.address)?;

    let (mut disk_times, mut loopback_times, mut together_times) =
        (histogram()?, histogram()?, histogram()?);
    let turn = Duration::try_from_secs_f64(seconds / f64::from(TURNS)).map_err(io::Error::other)?;
    for _ in 0..TURNS {
        sample(turn, &mut disk_times, || disk.write())?;
        sample(turn, &mut loopback_times, || exchange(&mut echo_stream))?;
        sample(turn, &mut together_times, || exchange(&mut leader_stream))?;
    }
    Ok(Floor {
        disk_us: Quantiles::of(&disk_times),
        loopback_us: Quantiles::of(&loopback_times),
        together_us: Quantiles::of(&together_times),
    })
}

/// Plays the part [`measure`] started this process for, if it did, and does not return then.
pub fn run_if_asked() {
    let Some(part) = std::env::var_os(PART) else { return };
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    // The pipe closes when the measuring process ends, however it ends.
    let watch = || {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(0);
    };
    let watching = std::thread::Builder::new().name("parent-watch".to_owned()).spawn(watch);
    let text = |at: usize| args[at].to_string_lossy().into_owned();
    let played = watching.and_then(|_| match part.to_string_lossy().as_ref() {
        "echo" => play_echo(),
        "follower" => play_follower(Path::new(&args[0])),
        "leader" => play_leader(Path::new(&args[0]), [&text(1), &text(2)]),
        other => Err(io::Error::other(format!("no part is called {other}"))),
    });
    if let Err(error) = &played {
        eprintln!("floor: {}: {error}", part.to_string_lossy());
    }
    std::process::exit(i32::from(played.is_err()));
}

fn play_echo() -> io::Result<()> {
    let mut stream = accept()?;
    let mut message = [0; MESSAGE_BYTES];
    while stream.read_exact(&mut message).is_ok() {
        stream.write_all(&message)?;
    }
    Ok(())
}

fn play_follower(file: &Path) -> io::Result<()> {
    let mut disk = Disk::create(file)?;
    let mut leader = accept()?;
    let mut message = [0; MESSAGE_BYTES];
    while leader.read_exact(&mut message).is_ok() {
        disk.write()?;
        leader.write_all(&message[..ACK_BYTES])?;
    }
    Ok(())
}

fn play_leader(file: &Path, followers: [&str; 2]) -> io::Result<()> {
    let mut disk = Disk::create(file)?;
    let address = |text: &str| text.parse().map_err(io::Error::other);
    let mut followers = [connect(address(followers[0])?)?, connect(address(followers[1])?)?];
    let mut client = accept()?;
    let mut message = [0; MESSAGE_BYTES];
    let mut sequence = 0_u64;
    while client.read_exact(&mut message).is_ok() {
        sequence += 1;
        message[..ACK_BYTES].copy_from_slice(&sequence.to_le_bytes());
        for follower in &mut followers {
            follower.write_all(&message)?;
        }
        disk.write()?;
        while first_ack(&mut followers)? < sequence {}
        client.write_all(&message)?;
    }
    Ok(())
}

/// Waits for answers, takes one from each follower that has one, and returns the newest of them.
fn first_ack(followers: &mut [TcpStream; 2]) -> io::Result<u64> {
    let ready = {
        let [one, two] = &*followers;
        let mut fds = [PollFd::new(one, PollFlags::IN), PollFd::new(two, PollFlags::IN)];
        poll(&mut fds, None)?;
        fds.map(|fd| !fd.revents().is_empty())
    };
    let mut newest = 0;
    for (follower, ready) in followers.iter_mut().zip(ready) {
        if ready {
            let mut ack = [0; ACK_BYTES];
            follower.read_exact(&mut ack)?;
            newest = newest.max(u64::from_le_bytes(ack));
        }
    }
    Ok(newest)
}

/// A file of blocks already written, written again one by one.
struct Disk {
    file: File,
    block: Vec<u8>,
    /// Where in `block` the aligned block starts.
    aligned: usize,
    next: u64,
}

impl Disk {
    fn create(path: &Path) -> io::Result<Self> {
        let mut file = File::create_new(path)?;
        file.write_all(&vec![0; FILE_BYTES])?;
        file.sync_all()?;
        drop(file);
        let direct = i32::try_from(OFlags::DIRECT.bits()).map_err(io::Error::other)?;
        let file = OpenOptions::new().write(true).custom_flags(direct).open(path)?;
        // In memory of twice the size there is an aligned block, which is found without unsafe code.
        let block = vec![0x5a; 2 * BLOCK_BYTES];
        let aligned = block.as_ptr().align_offset(BLOCK_BYTES);
        Ok(Self { file, block, aligned, next: 0 })
    }

    /// Writes one block so that it is durable.
    fn write(&mut self) -> io::Result<()> {
        let block = &self.block[self.aligned..self.aligned + BLOCK_BYTES];
        let written = rustix::io::pwritev2(
            &self.file,
            &[IoSlice::new(block)],
            self.next,
            ReadWriteFlags::DSYNC,
        )?;
        if written != BLOCK_BYTES {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.next = (self.next + BLOCK_BYTES as u64) % FILE_BYTES as u64;
        Ok(())
    }
}

/// This program again, playing a part. Ends with this process, or when dropped.
struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    /// `args`: the part, then what it needs.
    fn start<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> io::Result<Self> {
        let (part, rest) = args.split_first().expect("a part");
        let mut child = Command::new(std::env::current_exe()?)
            .env(PART, part)
            .args(rest)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let said = child.stdout.take().map(|out| BufReader::new(out).read_line(&mut line));
        // From here on the child is ended when `process` is dropped, also if what follows fails.
        let mut process = Self { child, address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)) };
        said.transpose()?;
        process.address = line.trim().parse().map_err(|_| {
            io::Error::other(
                "a process of the floor ended early, or main does not call run_if_asked",
            )
        })?;
        Ok(process)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Says where this process listens, and takes one connection.
fn accept() -> io::Result<TcpStream> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?);
    let (stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    // A part that hangs is an error, not a run without end.
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    Ok(stream)
}

/// One request and its reply.
fn exchange(stream: &mut TcpStream) -> io::Result<()> {
    let mut message = [0x5a; MESSAGE_BYTES];
    stream.write_all(&message)?;
    stream.read_exact(&mut message)
}

/// Repeats `operation` for one turn, one at a time, after a few that do not count.
fn sample(
    turn: Duration,
    times: &mut Histogram<u64>,
    mut operation: impl FnMut() -> io::Result<()>,
) -> io::Result<()> {
    for _ in 0..WARM_UP_OPERATIONS {
        operation()?;
    }
    let mut before = Instant::now();
    let end = before + turn;
    while before < end {
        operation()?;
        let after = Instant::now();
        let nanoseconds = u64::try_from((after - before).as_nanos()).map_err(io::Error::other)?;
        times.saturating_record(nanoseconds);
        before = after;
    }
    Ok(())
}

/// 100 ns to a minute.
fn histogram() -> io::Result<Histogram<u64>> {
    Histogram::new_with_bounds(100, 60_000_000_000, 3).map_err(io::Error::other)
}

/// The environment variable that names the part a process plays. It is set only for these processes.
const PART: &str = "LOGDRIVE_FLOOR_PART";
const MESSAGE_BYTES: usize = 128;
/// A message's first bytes are its number; an answer is that number.
const ACK_BYTES: usize = 8;
const BLOCK_BYTES: usize = 4_096;
const FILE_BYTES: usize = 16 << 20;
const WARM_UP_OPERATIONS: usize = 20;
const TURNS: u32 = 5;
const ANSWER_MAX: Duration = Duration::from_secs(30);
