r"""Optimal matchings of persistence diagrams: the assignment problem behind the Wasserstein distance, exactly.

Send every bar to the diagonal first, at the cost :math:`\alpha_i^p` or :math:`\beta_j^p`. A pair (i, j) then pays if
its own cost :math:`c_{ij}^p` is less, and what is left is to choose disjoint pairs of least total

.. math:: w_{ij} = \min(0,\; c_{ij}^p - \alpha_i^p - \beta_j^p),

a small rectangle instead of the square of all bars and all their places on the diagonal. It is solved by shortest
augmenting paths (Jonker and Volgenant, 1987) with prices, the dual solution, on rows and columns; a path may also end
at a row that stays alone. Prices start at the diagonal's costs, :math:`-\alpha_i^p` and :math:`-\beta_j^p`: bars that
hardly moved since the checkpoint before then find each other at once. Rows are decided first, then the columns that
are left. Where all bars have one birth, as in H0, they are points on a line, and a recursion matches them.

Small distances between long bars, as consecutive checkpoints give, would lose their digits twice in this form. So the
distance is summed from the lengths in the matching, not as a total minus savings; and where it is so small that the
weights did not resolve it, the assignment is solved again with the costs of the diagonal cut down to its size.
"""

import math

import numpy as np

from topoflow.topology.compiled import compiled, reordered

_LARGEST = np.finfo(np.float64).max
_ALONE, _UNDECIDED = -1, -2
_SQRT_TWO = math.sqrt(2.0)
_RESOLVED = 1e-5  # share of the unit, in powers of the order, of which rounding leaves eleven digits


@compiled
def wasserstein_of_pairs(a, a_offsets, b, b_offsets, order):
    """Distances between the k-th diagrams of two lists; the bars of each list one after another, with offsets.

    Beside each distance the share of its power that comes from bars left alone.
    """
    n_pairs = len(a_offsets) - 1
    distances, alone = np.empty(n_pairs), np.empty(n_pairs)
    for k in range(n_pairs):
        one = a[a_offsets[k] : a_offsets[k + 1]]
        other = b[b_offsets[k] : b_offsets[k + 1]]
        distances[k], alone[k] = wasserstein(one, other, order)
    return distances, alone


@compiled
def wasserstein(a, b, order):
    """Distance of order p between two diagrams; essential bars match each other in order of birth.

    The second number is the share of the distance to the power p that comes from bars that the matching leaves alone;
    NaN where the distance is 0 or infinite.
    """
    a, b = sorted_bars(a), sorted_bars(b)
    finite_a, finite_b = a[a[:, 1] < np.inf], b[b[:, 1] < np.inf]
    n_essential = len(a) - len(finite_a)
    if n_essential != len(b) - len(finite_b):
        return np.inf, np.nan
    lengths = np.zeros(n_essential + len(finite_a) + len(finite_b))
    if n_essential > 0:
        births_a, births_b = a[a[:, 1] == np.inf, 0], b[b[:, 1] == np.inf, 0]
        lengths[:n_essential] = np.abs(births_a - births_b)
    paired = np.ones(len(lengths), np.bool_)
    partner_of = np.empty(min(len(finite_a), len(finite_b)), np.int64)
    matched_lengths(finite_a, finite_b, order, lengths[n_essential:], paired[n_essential:], partner_of)
    distance = norm(lengths, order)
    if distance == 0.0:
        return distance, np.nan
    left = norm(np.where(paired, 0.0, lengths), order)
    return distance, min(power(left / distance, order), 1.0)


@compiled
def partners(a, b, order):
    """For each bar of one diagram the place of its partner in the other, or -1 where it is alone.

    It is the matching behind `wasserstein`; both diagrams are finite, and in order of birth, then death.
    """
    column_of = np.empty(min(len(a), len(b)), np.int64)
    paired = np.empty(len(a) + len(b), np.bool_)
    matched_lengths(a, b, order, np.zeros(len(a) + len(b)), paired, column_of)
    if len(a) <= len(b):
        return column_of
    row_of = np.full(len(a), _ALONE)
    for row in range(len(b)):
        if column_of[row] >= 0:
            row_of[column_of[row]] = row
    return row_of


@compiled
def norm(lengths, order):
    longest = lengths.max() if len(lengths) > 0 else 0.0
    if longest == 0.0:
        return 0.0
    total = 0.0
    for length in lengths:  # powers of ratios of at most 1 cannot overflow, whatever the order
        total += power(length / longest, order)
    return longest * total ** (1.0 / order)


@compiled
def sorted_bars(bars):
    """Copy a diagram in order of birth, then death: an insertion sort, as it is nearly always sorted already."""
    bars = bars.copy()
    for k in range(1, len(bars)):
        birth, death = bars[k, 0], bars[k, 1]
        place = k
        while place > 0 and (
            bars[place - 1, 0] > birth or (bars[place - 1, 0] == birth and bars[place - 1, 1] > death)
        ):
            bars[place, 0], bars[place, 1] = bars[place - 1, 0], bars[place - 1, 1]
            place -= 1
        bars[place, 0], bars[place, 1] = birth, death
    return bars


@compiled
def power(base, order):
    if order == 2.0:
        return base * base
    return base if order == 1.0 else base**order


@compiled
def matched_lengths(a, b, order, lengths, paired, partner_of):
    """Write the lengths of the optimal matching's edges over the leading zeros, and whether each joins two bars.

    Also the partner of each bar of the smaller diagram, or of ``a`` where none is smaller; -1 where it has none.
    """
    if len(a) > len(b):
        a, b = b, a
    for i in range(len(a)):
        partner_of[i] = i
    if len(b) == 0 or (len(a) == len(b) and (a == b).all()):
        return
    to_diagonal_a = (a[:, 1] - a[:, 0]) / _SQRT_TWO
    to_diagonal_b = (b[:, 1] - b[:, 0]) / _SQRT_TWO
    longest = to_diagonal_b.max()
    if len(a) > 0:
        longest = max(longest, to_diagonal_a.max())
    if longest == 0.0:
        return  # all bars have length zero, and any matching will do

    # Where the distance turns out to be far below the longest bar, its power has drowned in rounding beside the powers
    # of the bars. Then a second look, in units of the distance found.
    scale, bound = longest, 0.0
    while bound < scale * _RESOLVED ** (1.0 / order):
        if bound > 0.0:
            scale = bound
        weights, powers_a, powers_b = savings(a, b, to_diagonal_a, to_diagonal_b, scale, order)
        column_of = align(weights) if born_together(a, b) else assign(weights, -powers_a, -powers_b)
        lengths[: len(a)], lengths[len(a) :] = to_diagonal_a, to_diagonal_b
        paired[len(a) :] = False  # one that has a partner keeps no length here
        for i in range(len(a)):
            j = column_of[i]
            paired[i] = j >= 0 and weights[i, j] < 0.0
            partner_of[i] = j if paired[i] else _ALONE
            if paired[i]:
                lengths[i] = math.hypot(a[i, 0] - b[j, 0], a[i, 1] - b[j, 1])
                lengths[len(a) + j] = 0.0
        bound = norm(lengths, order)
        if bound == 0.0:
            return


@compiled
def born_together(a, b):
    return len(a) > 0 and (a[:, 0] == b[0, 0]).all() and (b[:, 0] == b[0, 0]).all()


@compiled
def savings(a, b, to_diagonal_a, to_diagonal_b, scale, order):
    """What a pair costs beyond sending both to the diagonal, or 0 where that is better; and what the diagonal costs.

    In powers of ``scale``, which is the longest way to the diagonal or else no less than the distance. In the latter
    case no way to the diagonal that costs more than 1 can be taken, and 2 stands for its cost; and a pair that costs 4
    saves nothing.
    """
    unit = min(1.0 / scale, _LARGEST)
    farthest_diagonal, farthest_pair = 2.0 ** (1.0 / order), 4.0 ** (1.0 / order)
    births, deaths = b[:, 0].copy(), b[:, 1].copy()
    powers_a = np.array([power(min(length * unit, farthest_diagonal), order) for length in to_diagonal_a])
    powers_b = np.array([power(min(length * unit, farthest_diagonal), order) for length in to_diagonal_b])
    weights = np.empty((len(a), len(b)))
    for i in range(len(a)):
        birth, death = a[i, 0], a[i, 1]
        costs = weights[i]
        for j in range(len(b)):
            x, y = (birth - births[j]) * unit, (death - deaths[j]) * unit
            costs[j] = x * x + y * y
        if order == 1.0:
            for j in range(len(b)):
                costs[j] = math.sqrt(costs[j])
        elif order != 2.0:
            for j in range(len(b)):
                costs[j] = power(min(math.sqrt(costs[j]), farthest_pair), order)
        for j in range(len(b)):
            costs[j] = min(costs[j] - (powers_a[i] + powers_b[j]), 0.0)
    return weights, powers_a, powers_b


@compiled
def assign(weights, row_prices, column_prices):
    """Match rows to columns at least total weight, where any row or column may stay alone at weight 0.

    Prices u_i <= 0 of rows and v_j <= 0 of columns satisfy u_i + v_j <= weight from the start to the end, with equality
    along the matching; once a row or column is decided to stay alone, its price is 0. When all are decided, the prices
    prove the matching optimal.

    Returns the column of each row, or a negative number.
    """
    n_rows, n_columns = weights.shape
    column_of, row_of = np.full(n_rows, _ALONE), np.full(n_columns, _ALONE)
    undecided = np.zeros(n_rows, np.bool_)
    for row in range(n_rows):  # first come, first served
        column, row_prices[row] = cheapest(weights, row, column_prices)
        if row_prices[row] < 0.0:
            if row_of[column] == _ALONE:
                column_of[row], row_of[column] = column, row
            else:
                undecided[row] = True
    for row in range(n_rows):
        if undecided[row]:
            augment(row, weights, row_prices, column_prices, column_of, row_of)
    weights = weights.T.copy()  # the same for the columns that are left
    for column in range(n_columns):
        if row_of[column] == _ALONE:
            _, column_prices[column] = cheapest(weights, column, row_prices)
            if column_prices[column] < 0.0:
                augment(column, weights, column_prices, row_prices, row_of, column_of)
    return column_of


@compiled
def cheapest(weights, row, column_prices):
    """Return the column of least weight - price, and that number, or 0 if it is more."""
    column, least = _ALONE, 0.0
    for j in range(len(column_prices)):
        reduced = weights[row, j] - column_prices[j]
        if reduced < least:
            column, least = j, reduced
    return column, least


@compiled
def augment(start, weights, row_prices, column_prices, column_of, row_of):
    """Decide one more row: find the way of least reduced weight from it, along which rows change their columns.

    Ways go from a row to any column and from a column to the row that has it. They end at a column that nobody has, or
    at a row that is left alone instead (Dijkstra's algorithm; reduced weights are weight - u_i - v_j, or -u_i).
    """
    n_columns = len(column_prices)
    way = np.full(n_columns, np.inf)  # length of the shortest way to each column not visited yet
    came_from = np.empty(n_columns, np.int32)  # the row before the column on it
    open_prices = column_prices.copy()  # -inf once visited, so that no way is shorter
    rows, row_ways = np.empty(n_columns + 1, np.int32), np.empty(n_columns + 1)
    columns, column_ways = np.empty(n_columns, np.int32), np.empty(n_columns)
    n_visited = 0
    row, here = start, 0.0
    way_alone, row_alone = np.inf, start
    while True:
        rows[n_visited], row_ways[n_visited] = row, here
        if here - row_prices[row] < way_alone:
            way_alone, row_alone = here - row_prices[row], row
        nearest = relax(weights, row, here - row_prices[row], open_prices, way, came_from)
        here = min(way_alone, nearest)
        if way_alone <= nearest:
            break
        column = 0
        while way[column] != nearest:
            column += 1
        if row_of[column] == _ALONE:
            break
        columns[n_visited], column_ways[n_visited] = column, here
        n_visited += 1
        way[column], open_prices[column] = np.inf, -np.inf
        row = row_of[column]

    for k in range(n_visited + 1):
        row_prices[rows[k]] += here - row_ways[k]
    for k in range(n_visited):
        column_prices[columns[k]] -= here - column_ways[k]
    row = _ALONE
    if way_alone <= nearest:
        row, column = row_alone, column_of[row_alone]
        column_of[row] = _ALONE
        row_prices[row] = 0.0  # but for rounding it is
    while row != start:  # back along the way, each row takes the column after it
        row = came_from[column]
        row_of[column] = row
        column, column_of[row] = column_of[row], column


@reordered
def relax(weights, row, base, open_prices, way, came_from):
    """Shorten the ways to the open columns by going through a row; return the length of the shortest of all."""
    nearest = np.inf
    for column in range(len(way)):
        length = base + weights[row, column] - open_prices[column]
        shorter = length < way[column]
        way[column] = length if shorter else way[column]
        came_from[column] = row if shorter else came_from[column]
        nearest = min(nearest, way[column])
    return nearest


@compiled
def align(weights):
    """`assign` for bars on one line, as those of H0 are: there a best matching crosses nowhere, from order 1 on.

    The least total of the first i rows and the first j columns follows from those of fewer: the last of either stays
    alone, or the two match.
    """
    n_rows, n_columns = weights.shape
    least = np.zeros((n_rows + 1, n_columns + 1))
    for i in range(1, n_rows + 1):
        for j in range(1, n_columns + 1):
            alone = min(least[i - 1, j], least[i, j - 1])
            least[i, j] = min(alone, least[i - 1, j - 1] + weights[i - 1, j - 1])
    column_of = np.full(n_rows, _ALONE)
    i, j = n_rows, n_columns
    while i > 0 and j > 0:  # back the way that the last total came
        if least[i, j] == least[i - 1, j]:
            i -= 1
        elif least[i, j] == least[i, j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            column_of[i] = j
    return column_of
