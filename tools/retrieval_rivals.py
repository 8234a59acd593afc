"""Libraries that search by BM25, behind one signature, for tools/retrieval_bench.py.

`LIBRARIES[name](documents, num_words, k1, b, k)` makes an index and returns a search: queries -> hits. Each is set up
as its makers say it is fastest on one thread. A query is a document of the collection; the libraries cannot leave it
out, so one hit more is asked for, and it is taken out of them.
"""

from collections.abc import Callable
from importlib.util import find_spec
from itertools import pairwise

import numpy as np

from reimagen_jax.retrieval import allpairs
from reimagen_jax.retrieval.allpairs import Documents, Hits, Scoring

Search = Callable[[Documents], Hits]


def installed(name: str) -> bool:
    """Whether a library is there."""
    return find_spec(name) is not None


def lists(documents: Documents) -> list[list[int]]:
    """The words of each document."""
    flat, starts = documents.words.tolist(), documents.starts.tolist()
    return [flat[first:last] for first, last in pairwise(starts)]


def others(ids_QC: np.ndarray, scores_QC: np.ndarray, itself_Q: np.ndarray, k: int) -> Hits:
    """The first k that are not the query itself."""
    order_QK = np.argsort(ids_QC == itself_Q[:, None], axis=1, kind="stable")[:, :k]
    return np.take_along_axis(ids_QC, order_QK, axis=1), np.take_along_axis(scores_QC, order_QK, axis=1)


def with_bm25s(documents: Documents, num_words: int, k1: float, b: float, k: int) -> Search:
    """bm25s (github.com/xhluca/bm25s), backend numba."""
    import bm25s

    model = bm25s.BM25(k1=k1, b=b, method="lucene", backend="numba")
    vocabulary = {str(word): word for word in range(num_words)}
    model.index((lists(documents), vocabulary), create_empty_token=False, show_progress=False)
    model.activate_numba_scorer()

    def search(queries: Documents) -> Hits:
        asked = [np.asarray(query, np.int32) for query in lists(queries)]
        found = model.retrieve((asked, vocabulary), k=k + 1, n_threads=1, show_progress=False)
        return others(np.asarray(found.documents), np.asarray(found.scores), queries.ids_N, k)

    return search


def with_tantivy(documents: Documents, num_words: int, k1: float, b: float, k: int) -> Search:
    """tantivy (github.com/quickwit-oss/tantivy-py), Lucene in Rust; always with k1 = 1.2 and b = 0.75."""
    import tantivy

    builder = tantivy.SchemaBuilder()
    builder.add_text_field("body", tokenizer_name="whitespace", index_option="freq")
    builder.add_integer_field("id", fast=True, stored=True)
    schema = builder.build()
    index = tantivy.Index(schema)
    writer = index.writer(heap_size=500_000_000, num_threads=1)
    for i, words in enumerate(lists(documents)):
        writer.add_document(tantivy.Document(id=i, body=" ".join(map(str, words))))
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    searcher, should = index.searcher(), tantivy.Occur.Should

    def search(queries: Documents) -> Hits:
        hits = allpairs.nothing(len(queries.ids_N), k + 1, np.int32)
        for q, words in enumerate(lists(queries)):
            terms = [(should, tantivy.Query.term_query(schema, "body", str(word), "freq")) for word in words]
            found = searcher.search(tantivy.Query.boolean_query(terms), limit=k + 1, count=False).hits
            for place, (score, address) in enumerate(found):
                hits[0][q, place] = searcher.doc(address)["id"][0]
                hits[1][q, place] = score
        return others(*hits, queries.ids_N, k)

    return search


def with_sparse_dot_topn(documents: Documents, num_words: int, k1: float, b: float, k: int) -> Search:
    """sparse_dot_topn (github.com/ing-bank/sparse_dot_topn): products of sparse matrices, the largest of each row."""
    import scipy.sparse as sp
    from sparse_dot_topn import sp_matmul_topn

    count = len(documents.ids_N)
    idf_V = allpairs.inverse_frequencies(allpairs.document_frequencies(documents, num_words), count)
    found = allpairs.invert(documents, Scoring(idf_V, documents.lengths_N.mean(), k1, b))
    summand_VN = sp.csr_matrix((found.data, found.indices, found.indptr), shape=(len(found.words_W), count))
    place_V = np.full(num_words, -1, np.int32)
    place_V[found.words_W] = np.arange(len(found.words_W), dtype=np.int32)

    def search(queries: Documents) -> Hits:
        values = np.ones(len(queries.words), np.float32)
        shape = (len(queries.ids_N), len(found.words_W))
        query_QV = sp.csr_matrix((values, place_V[queries.words], queries.starts), shape=shape)
        query_QV.sum_duplicates()
        best = sp_matmul_topn(query_QV, summand_VN, top_n=k + 1, sort=True, n_threads=1)
        hits = allpairs.nothing(len(queries.ids_N), k + 1, np.int32)
        for q in range(len(queries.ids_N)):
            row = slice(best.indptr[q], best.indptr[q + 1])
            hits[0][q, : row.stop - row.start], hits[1][q, : row.stop - row.start] = best.indices[row], best.data[row]
        return others(*hits, queries.ids_N, k)

    return search


LIBRARIES: dict[str, Callable[..., Search]] = {
    "bm25s": with_bm25s,
    "tantivy": with_tantivy,
    "sparse_dot_topn": with_sparse_dot_topn,
}
