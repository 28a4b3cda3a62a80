r"""Exact optimal matchings between the finite bars of many pairs of diagrams, compiled.

Matching two bars instead of sending both to the diagonal saves cost where
:math:`c^p < a^p + b^p`, with c the distance of the bars and a, b their distances to the diagonal. A matching of least
cost is therefore an assignment of rows (bars of one diagram) to columns (bars of the other) of least
:math:`c^p - a^p - b^p`, in which a row may also stay on the diagonal, at 0. It is found by shortest augmenting paths:
rows are assigned one by one, each along the cheapest chain of reassignments, and prices keep all reduced costs
non-negative, so that Dijkstra's algorithm finds the chain (Crouse, "On implementing 2D rectangular assignment
algorithms", 2016). Most bars of a diagram are short and stay on the diagonal, where their chains end at once.
H0 is easier still: all its bars are born at 0, and sorted bars can be aligned (see `align`).

This is our own because a cell has 64 pairs of small diagrams: SciPy's solver is as exact, and stays the reference in
`distances`, but around it NumPy spends several times what the matching needs.

This module needs numba; `distances` imports it only where it is used.
"""

import math

import numpy as np
from numba import njit

_DIAGONAL = -1


@njit(nogil=True, cache=True)
def cell_distances(bars_a, offsets_a, bars_b, offsets_b, order):
    """Wasserstein distances between diagrams k of two cells, for all k; bars stand one diagram after another."""
    distances = np.empty(len(offsets_a) - 1)
    for k in range(len(distances)):
        a = bars_a[offsets_a[k] : offsets_a[k + 1]]
        b = bars_b[offsets_b[k] : offsets_b[k + 1]]
        distances[k] = distance(a, b, order) if len(a) <= len(b) else distance(b, a, order)
    return distances


@njit(nogil=True, cache=True)
def distance(a, b, order):
    """Wasserstein distance between two diagrams of finite bars, the first not the longer one."""
    if len(a) == len(b) and (a == b).all():  # diagrams are canonical: equal topology, equal arrays
        return 0.0
    to_diagonal_a, to_diagonal_b = to_diagonal(a), to_diagonal(b)
    largest = 0.0
    for length in to_diagonal_a:
        largest = max(largest, length)
    for length in to_diagonal_b:
        largest = max(largest, length)
    if largest == 0.0:
        return 0.0
    a, b = a / largest, b / largest  # squares and powers of what is left can neither overflow nor vanish
    to_diagonal_a, to_diagonal_b = to_diagonal_a / largest, to_diagonal_b / largest
    if born_together(a, b):
        return largest * align(a[:, 1] - a[0, 0], b[:, 1] - a[0, 0], order)
    column_of = assign(savings(a, b, to_diagonal_a, to_diagonal_b, order))

    # The lengths of the matching itself, not a total minus savings: that would lose the digits of small distances.
    total = 0.0
    matched = np.zeros(len(b), np.bool_)
    for row in range(len(a)):
        column = column_of[row]
        if column == _DIAGONAL:
            total += power(to_diagonal_a[row] ** 2, order)
        else:
            matched[column] = True
            total += power(squared_between(a, row, b, column), order)
    for column in range(len(b)):
        if not matched[column]:
            total += power(to_diagonal_b[column] ** 2, order)
    return largest * total ** (1.0 / order)


@njit(nogil=True, cache=True)
def born_together(a, b):
    """Whether all bars of both diagrams have one birth, as in H0; then none may be empty."""
    return len(a) > 0 and (a[:, 0] == a[0, 0]).all() and (b[:, 0] == a[0, 0]).all()


@njit(nogil=True, cache=True)
def align(lengths_a, lengths_b, order):
    """The distance of diagrams whose bars are all born together, from the bars' lengths.

    Such bars are points on a line, where for an order of at least 1 some optimal matching crosses nowhere. So the
    sorted lengths are aligned as two words are: the last bar of either goes to the diagonal, or they match.
    """
    a, b = np.sort(lengths_a), np.sort(lengths_b)
    alone_a = np.array([power(0.5 * length * length, order) for length in a])
    alone_b = np.array([power(0.5 * length * length, order) for length in b])
    cost = np.zeros(len(b) + 1)  # of aligning the bars of a so far with the first j of b
    cost[1:] = np.cumsum(alone_b)
    for i in range(len(a)):
        diagonal = cost[0]
        cost[0] += alone_a[i]
        for j in range(len(b)):
            difference = a[i] - b[j]
            matched = diagonal + power(difference * difference, order)
            diagonal = cost[j + 1]
            cost[j + 1] = min(matched, min(diagonal + alone_a[i], cost[j] + alone_b[j]))
    return cost[len(b)] ** (1.0 / order)


@njit(nogil=True, cache=True)
def to_diagonal(bars):
    return (bars[:, 1] - bars[:, 0]) / math.sqrt(2.0)


@njit(nogil=True, cache=True)
def squared_between(a, row, b, column):
    birth, death = a[row, 0] - b[column, 0], a[row, 1] - b[column, 1]
    return birth * birth + death * death


@njit(nogil=True, cache=True)
def power(square, order):
    """A length to the given order, from its square; for the usual order there is nothing to do."""
    return square if order == 2.0 else square ** (0.5 * order)


@njit(nogil=True, cache=True)
def savings(a, b, to_diagonal_a, to_diagonal_b, order):
    """What matching each pair adds to the cost of sending both to the diagonal: negative where it saves, else 0.

    No bar is longer than 1 to the diagonal.
    """
    power_a = np.array([power(length * length, order) for length in to_diagonal_a])
    power_b = np.array([power(length * length, order) for length in to_diagonal_b])
    saving = np.zeros((len(a), len(b)))
    for row in range(len(a)):
        for column in range(len(b)):
            square = squared_between(a, row, b, column)
            if square < 4.0:  # beyond, nothing saves, and the power could overflow
                saving[row, column] = min(power(square, order) - power_a[row] - power_b[column], 0.0)
    return saving


@njit(nogil=True, cache=True)
def assign(saving):
    """Assign rows to columns at the least sum; `_DIAGONAL` for a row that is better off without a column."""
    n_rows, n_columns = saving.shape
    row_price, column_price = np.zeros(n_rows), np.zeros(n_columns)
    column_of = np.full(n_rows, _DIAGONAL, np.int64)
    row_of = np.full(n_columns, _DIAGONAL, np.int64)
    waiting = np.empty(n_rows, np.int64)
    n_waiting = 0
    for row in range(n_rows):  # a first guess: each row its best column, as long as that is free
        column = np.argmin(saving[row])
        row_price[row] = saving[row, column]
        if saving[row, column] == 0.0:
            continue
        if row_of[column] == _DIAGONAL:
            column_of[row], row_of[column] = column, row
        else:
            waiting[n_waiting] = row
            n_waiting += 1
    for row in waiting[:n_waiting]:
        augment(row, saving, row_price, column_price, column_of, row_of)
    return column_of


@njit(nogil=True, cache=True)
def augment(start, saving, row_price, column_price, column_of, row_of):
    """Assign one more row along the cheapest chain, which ends at a free column or leaves a row on the diagonal."""
    n_rows, n_columns = saving.shape
    cost = np.full(n_columns, np.inf)  # of the cheapest chain found to a column
    came_from = np.full(n_columns, _DIAGONAL, np.int64)
    # A column that is done must be neither improved nor chosen. Prices of -inf and penalties of +inf see to it without
    # a branch, so that the two loops over all columns, which are the work, run on whole vectors.
    price, penalty = column_price.copy(), np.zeros(n_columns)
    rows, cost_of_row = np.empty(n_rows, np.int64), np.empty(n_rows)
    n_seen = 0
    row, so_far = start, 0.0
    last_row, leaving = start, np.inf  # the cheapest chain that ends on the diagonal
    while True:
        rows[n_seen], cost_of_row[n_seen] = row, so_far
        n_seen += 1
        if so_far - row_price[row] < leaving:
            last_row, leaving = row, so_far - row_price[row]
        relax(saving[row], price, so_far - row_price[row], cost, came_from, row)
        nearest = cheapest(cost, penalty)
        if leaving <= nearest:
            so_far, column = leaving, column_of[last_row]
            column_of[last_row] = _DIAGONAL
            row = last_row
            break
        so_far, column = nearest, 0
        while cost[column] + penalty[column] != nearest:
            column += 1
        if row_of[column] == _DIAGONAL:
            row = _DIAGONAL
            break
        price[column], penalty[column] = -np.inf, np.inf
        row = row_of[column]

    for k in range(n_seen):
        row_price[rows[k]] += so_far - cost_of_row[k]
    for j in range(n_columns):
        if penalty[j] > 0.0:
            column_price[j] -= so_far - cost[j]
    while row != start:  # back along the chain, each row taking the column it was reached for
        row = came_from[column]
        column_of[row], row_of[column], column = column, row, column_of[row]


@njit(nogil=True, cache=True, fastmath={"nsz", "reassoc"})
def relax(saving, price, so_far, cost, came_from, row):
    """Improve the chains to all columns by those that end with ``row``."""
    for column in range(len(cost)):
        reduced = so_far + saving[column] - price[column]
        better = reduced < cost[column]
        cost[column] = reduced if better else cost[column]
        came_from[column] = row if better else came_from[column]


@njit(nogil=True, cache=True, fastmath={"nsz", "reassoc", "nnan"})
def cheapest(cost, penalty):
    least = np.inf
    for column in range(len(cost)):
        least = min(least, cost[column] + penalty[column])
    return least
