"""The results of `benchmarks.bench` in words."""

from typing import Any

from benchmarks.measure import table

PARTS = {
    "video_tokenizer_step": "training step, video tokenizer",
    "action_tokenizer_step": "training step, action tokenizer",
    "dynamics_step": "training step, dynamics, tokenizing in every step",
    "dynamics_step_cached": "training step, dynamics, on ready tokens (plain: tokenizing)",
    "play_context_4": "one played frame, window of 4 frames",
    "play_context_16": "one played frame, window of 16 frames",
    "clips": "one clip of 16 frames out of the loader, as uint8 (plain: floats), 2 workers",
}


def report(results: dict[str, Any]) -> str:
    """Markdown: what was measured on what, a row for each ratio, and what has none."""
    peaks = results.get("peak_memory_mb")
    head = ["", "ours", "plain", "plain : ours", "GFLOP/s of ours"]
    if peaks:
        head.append("peak memory, ours, plain")
    rows = []
    for name, words in PARTS.items():
        times, rate = results["times"][name], results["gflops"].get(name)
        row = [words, duration(times["ours"]), duration(times["plain"]), f"{results['ratios'][name]:.1f}"]
        row.append("" if rate is None else f"{rate:.1f} ({100 * rate / results['matmul_gflops']:.1f}%)")
        if peaks:
            row.append(f"{peaks[name]['ours']:.0f} MB, {peaks[name]['plain']:.0f} MB" if name in peaks else "")
        rows.append(row)
    return "\n\n".join([setting(results), table(head, rows), others(results)])


def setting(results: dict[str, Any]) -> str:
    """What the times were measured on."""
    machine, given = results["machine"], results["setting"]
    where = f"{machine['cpu']}, {machine['threads']} threads"
    if "gpu" in machine:
        where = f"{machine['gpu']}, {where}"
    return (
        f"{where}, torch {results['versions']['torch']}, precision {given['precision']}, commit {results['commit']}: "
        f"`experiment=reference`, {given['batch_size']} clips of {given['clip_length']} frames of "
        f"{given['size']}x{given['size']} a training step; medians of {given['rounds']} calls in turn."
    )


def others(results: dict[str, Any]) -> str:
    """What is compared with nothing."""
    played = ", ".join(
        f"{1 / results['times'][f'play_context_{window}']['ours']:.1f} frames/s with a window of {window}"
        for window in (4, 16)
    )
    clips = results["clips_per_second"]
    return "\n".join(
        [
            f"- Playing: {played}; the `laptop` world {results['laptop_frames_per_second']:.1f} frames/s.",
            f"- Clips a second: {clips['ours']:.0f} as uint8, {clips['as floats']:.0f} once the device has made floats "
            f"of them; plain, whose workers make floats of frames in memory, {clips['plain']:.0f}: as floats ours is "
            f"{clips['as floats'] / clips['plain']:.1f} times as fast.",
            f"- A store of 1,000,000 frames: {results['open_1m_frames_seconds']:.2f} s and "
            f"{results['open_1m_frames_mb']:.0f} MB to open it and read a shuffled batch.",
            f"- Products of large matrices run at {results['matmul_gflops']:.0f} GFLOP/s; the share of that which ours "
            "reaches, counting what is recomputed or masked in attention, stands in brackets.",
        ]
    )


def duration(seconds: float) -> str:
    """Seconds, or milliseconds where they are few."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
