"""How many prompt tokens one step may carry, learnt from what the steps before it took.

A step serves every running stream once, so a step with a long piece of somebody's prompt in it is a gap that every stream
sees. A fixed number of tokens is right for one machine and one model only: 512 tokens are 20 ms on a GPU and 15 s for a
big model on a CPU. So the budget is a time, and the tokens that fit in it are measured.
"""

from __future__ import annotations

SMALLEST = 32  # below this, prefill wastes more on reading the weights than the streams gain
SMOOTHING = 0.3  # weight of the newest step in the running averages


class PrefillBudget:
    """`max_gap_s`: how long prompts may hold up a step while others stream; `idle_gap_s`: while nobody does.

    The second bound keeps cancelling and joining prompt when there is no stream to protect.
    """

    def __init__(self, max_gap_s: float, largest: int, *, idle_gap_s: float = 1.0) -> None:
        self.max_gap_s = max_gap_s
        self.idle_gap_s = max(idle_gap_s, max_gap_s)
        self.largest = largest
        self.seconds_per_token: float | None = None  # of prefill
        self.decode_s = 0.0  # a step without prefill

    def __call__(self, is_streaming: bool) -> int:
        """Tokens of prompt for the next step: a power of two, so that batch shapes repeat and graphs are reused."""
        if self.seconds_per_token is None:
            return min(SMALLEST * 4, self.largest) if is_streaming else min(SMALLEST * 16, self.largest)
        room_s = self.max_gap_s - self.decode_s if is_streaming else self.idle_gap_s
        tokens = int(room_s / self.seconds_per_token)
        if tokens >= self.largest:
            return self.largest
        return 1 << (tokens.bit_length() - 1) if tokens > SMALLEST else min(SMALLEST, self.largest)

    def observe(self, num_prefill: int, num_decode: int, seconds: float) -> None:
        """A step with so many tokens of either kind took `seconds`."""
        if not num_prefill:
            self.decode_s += SMOOTHING * (seconds - self.decode_s)
        elif num_prefill >= SMALLEST:
            cost = max(seconds - (self.decode_s if num_decode else 0.0), 1e-9) / num_prefill
            if self.seconds_per_token is None:
                self.seconds_per_token = cost
            else:
                self.seconds_per_token += SMOOTHING * (cost - self.seconds_per_token)
