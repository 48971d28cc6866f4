// SPDX-License-Identifier: GPL-2.0

//! Reads the kernel's trace of inter-processor interrupts.
//!
//! `ipi_send_cpumask` and `ipi_send_cpu` say which CPUs were interrupted and from where, but for
//! function calls they name only the common dispatcher. What is to be run stands in the
//! `csd_queue_cpu` events just before. A CPU that has not yet looked at an earlier request gets no
//! second interrupt: it is then a target that shares one.

use std::{
    collections::{BTreeMap, HashMap},
    io::BufRead,
};

use anyhow::{Context, Result, bail, ensure};

/// One request sent to one or more CPUs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Send {
    /// When, in nanoseconds of the trace's clock.
    pub time_ns: u64,
    /// The part of the load that was running.
    pub part: Option<String>,
    /// Who is to be interrupted, and whether by an interrupt of this request's own.
    pub targets: BTreeMap<u32, bool>,
    /// The function to be run there; none for a bare reschedule.
    pub callback: Option<String>,
    /// Where in the kernel it was sent.
    pub callsite: String,
    /// The sender's stack, innermost function first.
    pub stack: Vec<String>,
}

/// An interrupt, from the `irq_vectors` or `irq_handler_entry` events of the CPU that it came upon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// When, in nanoseconds of the trace's clock.
    pub time_ns: u64,
    /// Upon which CPU.
    pub cpu: u32,
    /// The event's name without `_entry`.
    pub vector: String,
}

/// What a trace tells.
#[derive(Debug, Default)]
pub struct Trace {
    /// Everything that was sent, in order.
    pub sends: Vec<Send>,
    /// Everything that arrived, in order, if such events were recorded.
    pub arrivals: Vec<Arrival>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Sender {
    cpu: u32,
    task: String,
}

struct Event<'a> {
    time_ns: u64,
    sender: Sender,
    name: &'a str,
    fields: &'a str,
}

struct Queued {
    time_ns: u64,
    cpu: u32,
    function: String,
    callsite: String,
}

#[derive(Default)]
struct Parser {
    /// Whether it is an error if events were lost.
    strict: bool,
    sends: Vec<Send>,
    arrivals: Vec<Arrival>,
    part: Option<String>,
    /// Requests queued by a sender for which no interrupt has been sent yet.
    queued: HashMap<Sender, Vec<Queued>>,
    /// Sends that wait for their stack. A sender can be interrupted, hence a list: last in, first out.
    without_stack: HashMap<Sender, Vec<usize>>,
    /// The send whose stack is being read.
    reading: Option<usize>,
}

/// Where an interrupt or exception enters the kernel.
const INTERRUPT_ENTRIES: [&str; 3] = ["asm_sysvec_", "asm_common_interrupt", "asm_exc_"];

/// Everything that was sent, in order.
///
/// # Errors
///
/// If the trace is incomplete, or a line is not as the kernel writes it.
pub fn parse(text: &str) -> Result<Vec<Send>> {
    let parser = Parser {
        strict: true,
        ..Parser::default()
    };
    Ok(parser.read(text.as_bytes())?.sends)
}

/// Everything that was sent and that arrived. Events that were lost are for the caller to count.
///
/// # Errors
///
/// If it cannot be read, or a line is not as the kernel writes it.
pub fn read(source: impl BufRead) -> Result<Trace> {
    Parser::default().read(source)
}

impl Parser {
    fn read(mut self, mut source: impl BufRead) -> Result<Trace> {
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            if source.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            // A task may call itself anything.
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end_matches('\n');
            self.line(text)
                .with_context(|| format!("line {number} of the trace: {text}"))?;
        }
        Ok(self.finish())
    }

    fn line(&mut self, line: &str) -> Result<()> {
        if let Some(frame) = line.trim_start().strip_prefix("=> ") {
            if let Some(index) = self.reading {
                self.sends[index].stack.push(frame.to_owned());
                // Below lies what the interrupt came upon, which did not send it.
                if INTERRUPT_ENTRIES
                    .iter()
                    .any(|entry| frame.starts_with(entry))
                {
                    self.reading = None;
                }
            }
            return Ok(());
        }
        self.reading = None;
        if line.starts_with('#') {
            return if self.strict {
                check_complete(line)
            } else {
                Ok(())
            };
        }
        let is_gap = line.contains(" EVENTS]");
        ensure!(!(is_gap && self.strict), "events were lost");
        if is_gap || line.trim().is_empty() {
            return Ok(());
        }
        let event = event(line).context("it is not an event")?;
        match event.name {
            "csd_queue_cpu" => self.queue(&event),
            "ipi_send_cpu" | "ipi_send_cpumask" => self.send(&event),
            "<stack trace>" => {
                self.reading = self.without_stack.get_mut(&event.sender).and_then(Vec::pop);
                Ok(())
            }
            "tracing_mark_write" | "print" => {
                self.part = event.fields.strip_prefix("load: ").map(str::to_owned);
                Ok(())
            }
            name => {
                if let Some(vector) = name.strip_suffix("_entry") {
                    self.arrivals.push(Arrival {
                        time_ns: event.time_ns,
                        cpu: event.sender.cpu,
                        vector: vector.to_owned(),
                    });
                }
                Ok(())
            }
        }
    }

    fn queue(&mut self, event: &Event<'_>) -> Result<()> {
        let request = Queued {
            time_ns: event.time_ns,
            cpu: field(event.fields, "cpu=", " callsite=")?.parse()?,
            callsite: field(event.fields, "callsite=", " func=")?.to_owned(),
            function: field(event.fields, "func=", " csd=")?.to_owned(),
        };
        self.queued
            .entry(event.sender.clone())
            .or_default()
            .push(request);
        Ok(())
    }

    fn send(&mut self, event: &Event<'_>) -> Result<()> {
        let interrupted = if event.name == "ipi_send_cpu" {
            vec![field(event.fields, "cpu=", " callsite=")?.parse()?]
        } else {
            cpumask(field(event.fields, "cpumask=", " callsite=")?)?
        };
        let callback = field(event.fields, "callback=", "\n")?;
        let mut send = Send {
            time_ns: event.time_ns,
            part: self.part.clone(),
            targets: interrupted.iter().map(|cpu| (*cpu, true)).collect(),
            callback: (callback != "0x0").then(|| callback.to_owned()),
            callsite: field(event.fields, "callsite=", " callback=")?.to_owned(),
            stack: Vec::new(),
        };
        if callback.starts_with("generic_smp_call_function") {
            self.take_queued(&event.sender, &interrupted, &mut send);
        }
        self.without_stack
            .entry(event.sender.clone())
            .or_default()
            .push(self.sends.len());
        self.sends.push(send);
        Ok(())
    }

    /// Move the requests that an interrupt carries from the queue into it.
    fn take_queued(&mut self, sender: &Sender, interrupted: &[u32], send: &mut Send) {
        let Some(queue) = self.queued.get_mut(sender) else {
            return;
        };
        // An interrupt handler may have queued and sent in between: the newest request counts.
        let Some(newest) = queue.iter().rfind(|q| interrupted.contains(&q.cpu)) else {
            return;
        };
        let (function, callsite) = (newest.function.clone(), newest.callsite.clone());
        let (carried, rest): (Vec<_>, Vec<_>) = std::mem::take(queue)
            .into_iter()
            .partition(|q| q.function == function && q.callsite == callsite);
        *queue = rest;
        for request in carried.into_iter().rev() {
            if send.targets.contains_key(&request.cpu) && !interrupted.contains(&request.cpu) {
                // The same again for the same CPU: an earlier request that shared an interrupt.
                self.sends.push(Send::shared(request, self.part.clone()));
            } else {
                send.targets.entry(request.cpu).or_insert(false);
            }
        }
        send.callback = Some(function);
        send.callsite = callsite;
    }

    fn finish(mut self) -> Trace {
        for request in self.queued.into_values().flatten() {
            self.sends.push(Send::shared(request, None));
        }
        Trace {
            sends: self.sends,
            arrivals: self.arrivals,
        }
    }
}

impl Send {
    /// A request for which no interrupt of its own was sent to anybody.
    fn shared(request: Queued, part: Option<String>) -> Self {
        Self {
            time_ns: request.time_ns,
            part,
            targets: BTreeMap::from([(request.cpu, false)]),
            stack: vec![symbol(&request.callsite).to_owned()],
            callback: Some(request.function),
            callsite: request.callsite,
        }
    }
}

/// A symbol without its offset: `f+0x1/0x2 [module]` gives `f [module]` no more than `f`.
#[must_use]
pub fn symbol(text: &str) -> &str {
    text.split(['+', ' ']).next().unwrap_or(text)
}

fn check_complete(comment: &str) -> Result<()> {
    let Some((_, rest)) = comment.split_once("entries-in-buffer/entries-written: ") else {
        return Ok(());
    };
    let (kept, written) = rest
        .split_whitespace()
        .next()
        .and_then(|numbers| numbers.split_once('/'))
        .context("no numbers of entries")?;
    if kept != written {
        bail!("only {kept} of {written} events were kept: the buffer is too small");
    }
    Ok(())
}

/// `TASK-PID [CPU] FLAGS TIME: NAME: FIELDS`; a task's name may hold anything.
fn event(line: &str) -> Option<Event<'_>> {
    line.match_indices(" [").find_map(|(open, _)| {
        let (cpu, after) = line[open + 2..].split_once("] ")?;
        let (_flags, rest) = after.trim_start().split_once(' ')?;
        let (time, rest) = rest.trim_start().split_once(": ")?;
        let (name, fields) = rest.split_once(": ").unwrap_or((rest.trim_end(), ""));
        Some(Event {
            time_ns: nanoseconds(time)?,
            sender: Sender {
                cpu: cpu.parse().ok()?,
                task: line[..open].trim().to_owned(),
            },
            name,
            fields,
        })
    })
}

/// `17.587911` -> 17,587,911,000.
fn nanoseconds(seconds: &str) -> Option<u64> {
    let (whole, fraction) = seconds.split_once('.')?;
    let digits = u32::try_from(fraction.len()).ok()?;
    let fraction = fraction.parse::<u64>().ok()? * 10u64.pow(9u32.checked_sub(digits)?);
    Some(whole.parse::<u64>().ok()? * 1_000_000_000 + fraction)
}

/// What stands between `start` and `end`, or the end of the text.
fn field<'a>(text: &'a str, start: &str, end: &str) -> Result<&'a str> {
    let (_, rest) = text
        .split_once(start)
        .with_context(|| format!("there is no field {start}"))?;
    Ok(rest.split_once(end).map_or(rest, |(value, _)| value).trim())
}

/// `00000000,0000000e` -> 1, 2, 3.
fn cpumask(text: &str) -> Result<Vec<u32>> {
    let mut cpus = Vec::new();
    for (word, base) in text.rsplit(',').zip((0..).step_by(32)) {
        let bits = u32::from_str_radix(word, 16).context("the CPU mask cannot be read")?;
        cpus.extend(
            (0..32)
                .filter(|bit| bits >> bit & 1 == 1)
                .map(|bit| base + bit),
        );
    }
    Ok(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPTURE: &str = include_str!("../tests/trace.txt");

    #[test]
    fn reads_a_real_capture() {
        let sends = parse(CAPTURE).unwrap();
        let flush = &sends[0];
        assert_eq!(flush.callback.as_deref(), Some("do_kernel_range_flush"));
        assert_eq!(symbol(&flush.callsite), "flush_tlb_kernel_range");
        assert_eq!(
            flush.targets,
            BTreeMap::from([(1, true), (2, true), (3, true)])
        );
        assert_eq!(flush.stack[1], "smp_call_function_many_cond");
        assert_eq!(flush.stack[3], "__purge_vmap_area_lazy");
        assert_eq!(
            flush.stack.last().unwrap(),
            "entry_SYSCALL_64_after_hwframe"
        );
    }

    #[test]
    fn a_request_may_share_an_interrupt() {
        let sends = parse(CAPTURE).unwrap();
        assert_eq!(sends.len(), 4);
        let watchdog = &sends[1];
        assert_eq!(
            watchdog.callback.as_deref(),
            Some("watchdog_check_skew_remote")
        );
        assert_eq!(watchdog.targets, BTreeMap::from([(1, true)]));
        // CPU 1 was already interrupted for the watchdog when the flush came.
        let flush = &sends[2];
        assert_eq!(flush.callback.as_deref(), Some("do_kernel_range_flush"));
        assert_eq!(
            flush.targets,
            BTreeMap::from([(1, false), (2, true), (3, true)])
        );
    }

    #[test]
    fn what_an_interrupt_came_upon_did_not_send() {
        let sends = parse(CAPTURE).unwrap();
        // The timer interrupted a sender that waited in flush_tlb_kernel_range().
        let watchdog = &sends[1].stack;
        assert_eq!(watchdog.last().unwrap(), "asm_sysvec_apic_timer_interrupt");
        assert!(
            !watchdog
                .iter()
                .any(|frame| frame == "flush_tlb_kernel_range")
        );
    }

    #[test]
    fn an_interrupt_while_queueing_keeps_its_own_request_and_stack() {
        let line = |rest: &str| format!("  a-1  [000] d..1.  1.5: {rest}\n");
        let queue = |cpu: u32, f: &str| {
            line(&format!(
                "csd_queue_cpu: cpu={cpu} callsite={f}_site+0x1/0x2 func={f} csd=0"
            ))
        };
        let generic =
            "callsite=x+0x1/0x2 callback=generic_smp_call_function_single_interrupt+0x0/0x20";
        let text = [
            queue(1, "outer"),
            queue(3, "inner"),
            line(&format!("ipi_send_cpu: cpu=3 {generic}")),
            line("<stack trace>"),
            " => inner_caller\n => asm_sysvec_apic_timer_interrupt\n => outer_caller\n".to_owned(),
            queue(2, "outer"),
            queue(3, "outer"),
            line(&format!("ipi_send_cpumask: cpumask=00000006 {generic}")),
            line("<stack trace>"),
            " => outer_caller\n".to_owned(),
            queue(2, "alone"),
        ]
        .concat();
        let sends = parse(&text).unwrap();
        assert_eq!(sends.len(), 3);
        assert_eq!(sends[0].callback.as_deref(), Some("inner"));
        assert_eq!(sends[0].targets, BTreeMap::from([(3, true)]));
        assert_eq!(
            sends[0].stack,
            ["inner_caller", "asm_sysvec_apic_timer_interrupt"]
        );
        assert_eq!(sends[1].callback.as_deref(), Some("outer"));
        assert_eq!(
            sends[1].targets,
            BTreeMap::from([(1, true), (2, true), (3, false)])
        );
        assert_eq!(sends[1].stack, ["outer_caller"]);
        // Nobody was interrupted for this one alone.
        assert_eq!(sends[2].callback.as_deref(), Some("alone"));
        assert_eq!(sends[2].targets, BTreeMap::from([(2, false)]));
    }

    #[test]
    fn refuses_an_incomplete_trace() {
        assert!(parse("# entries-in-buffer/entries-written: 10/11   #P:4\n").is_err());
        assert!(parse("CPU:1 [LOST 17 EVENTS]\n").is_err());
        assert!(parse("no event at all\n").is_err());
        assert!(parse("# entries-in-buffer/entries-written: 11/11   #P:4\n").is_ok());
    }

    #[test]
    fn an_incomplete_trace_may_be_read_if_somebody_counts_what_was_lost() {
        let text = "# entries-in-buffer/entries-written: 10/11   #P:4\nCPU:1 [LOST 17 EVENTS]\n";
        assert!(read(text.as_bytes()).unwrap().sends.is_empty());
        assert!(read("no event at all\n".as_bytes()).is_err());
    }

    #[test]
    fn what_arrives_has_a_time_and_a_cpu() {
        let text = "  <idle>-0       [001] d.h1.    26.067761: call_function_entry: vector=252\n  \
            <idle>-0       [001] d.h1.    26.067769: call_function_exit: vector=252\n";
        assert_eq!(
            read(text.as_bytes()).unwrap().arrivals,
            [Arrival {
                time_ns: 26_067_761_000,
                cpu: 1,
                vector: "call_function".into(),
            }]
        );
        assert_eq!(parse(CAPTURE).unwrap()[0].time_ns, 17_587_933_000);
    }

    #[test]
    fn a_mask_of_many_cpus() {
        assert_eq!(
            cpumask("00000001,80000000,0000000a").unwrap(),
            [1, 3, 63, 64]
        );
        assert!(cpumask("x").is_err());
    }

    #[test]
    fn a_reschedule_has_no_callback_and_a_task_may_be_called_anything() {
        let sends = parse(
            "  a [0] b: c-12  [002] d..1.  1.5: ipi_send_cpu: cpu=3 callsite=f+0x1/0x2 callback=0x0\n",
        )
        .unwrap();
        assert_eq!(sends[0].callback, None);
        assert_eq!(sends[0].targets, BTreeMap::from([(3, true)]));
    }
}
