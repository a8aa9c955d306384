"""Grammars of any form, for Hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from raypose.captions.nodes import BINDINGS, FIELDS, Choice, Field, Join, Lit, Node, Opt, Seq

bindings = st.sampled_from(BINDINGS)


leaves: st.SearchStrategy[Node] = st.one_of(
    st.builds(Lit, st.text(min_size=1, max_size=6)),
    st.builds(Field, st.sampled_from(sorted(FIELDS))),
)


def branches(children: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    some = st.lists(children, min_size=1, max_size=3).map(tuple)
    return st.one_of(
        st.builds(Seq, some),
        st.builds(Choice, some, bindings),
        st.builds(Opt, children, bindings),
        st.builds(Join, some),
    )


grammars = st.recursive(leaves, branches, max_leaves=8)
