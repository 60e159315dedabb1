"""Flow: networks as particles that interact. Tokens are particles, depth is time, attention is their interaction.

Useful by itself: imports torch, numpy, scipy and POT, nothing else of Headwater. Every velocity is called as `v(t, x)` with
x (B, N, D); `integrate.solve` moves particles along any of them.
"""
