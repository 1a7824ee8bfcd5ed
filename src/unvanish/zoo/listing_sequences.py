"""The rows of the networks that read sequences."""

from __future__ import annotations

from unvanish.zoo.network import Network

SEQUENCES = (
    Network(
        name="lstm-lag-200", builder="sequences.recall", expects=("vanished",), codes=("UV102",),
        layers={"read": "vanished", "head": "healthy"}, about="an LSTM that is asked for the first of 200 numbers",
    ),
    Network(
        name="rnn-lag-100", builder="sequences.recall", options={"kind": "RNN", "steps": 100}, expects=("vanished",),
        codes=("UV102",), layers={"read": "vanished"}, about="a plain RNN that is asked for the first of 100 numbers",
    ),
    Network(
        name="lstm-recent-200", builder="sequences.recall", options={"lag": 3}, expects=("vanished",),
        codes=("UV102",), layers={"read": "healthy"}, harmless=True, learns=True,
        about="an LSTM that reads 200 numbers and is asked for the fourth from the end",
    ),
    Network(
        name="lstm-lag-8", builder="sequences.recall", options={"steps": 9}, expects=("healthy",),
        layers={"read": "healthy"}, learns=True, about="an LSTM that is asked for the first of 9 numbers",
    ),
    Network(
        name="gru-chrono-200", builder="sequences.recall", options={"kind": "GRU", "open_for": 200.0},
        expects=("healthy",), layers={"read": "healthy"},
        about="a GRU whose gates start open for up to 200 steps, asked for the first of 200 numbers",
    ),
    Network(
        name="convolutions-lag-200", builder="sequences.convolutions", options={"depth": 4, "steps": 200},
        expects=("vanished",), codes=("UV102",),
        about="causal convolutions that see 31 steps, asked for the first of 200 numbers",
    ),
    Network(
        name="convolutions-lag-24", builder="sequences.convolutions", options={"depth": 4, "steps": 24},
        expects=("healthy",), learns=True, about="the same convolutions, asked for the first of 24 numbers",
    ),
    Network(
        name="state-space-lag-200", builder="sequences.state_space", options={"decay": 0.7, "steps": 200},
        expects=("vanished",), codes=("UV102",),
        about="linear states that keep 0.7 from step to step, asked for the first of 200 numbers",
    ),
    Network(
        name="state-space-slow-200", builder="sequences.state_space",
        options={"decay": 0.99, "steps": 200, "mean": True}, expects=("healthy",), learns=True,
        about="states that keep 0.99 from step to step, asked for the mean of 200 numbers",
    ),
    Network(
        name="lstm-over-samples", builder="sequences.over_samples", expects=("pairing",), codes=("UV709",),
        about="an LSTM that goes along the samples of a batch, as it was made without batch_first=True",
    ),
)  # fmt: skip
