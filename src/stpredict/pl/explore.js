// Redraws both views of the page that pl.explore writes. bokeh runs it as the body of a function whose arguments are named
// in _explore_page.py; it holds the values as whole numbers, and turns those of one gene and section into colors and text.
const meta = JSON.parse(about)
const at = Math.max(0, meta.sections.findIndex((each) => each.name === section.value))
const place = meta.sections[at]
const rows = place.stop - place.start
const MISSING = 65535, GRAY = "#D9D9D9"

const escaped = (text) => String(text)
  .replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;")
const text_of = (value) => Number.isFinite(value) ? String(Number(value.toPrecision(4))) : "no value"
const part = (values) => Array.from(values.slice(place.start, place.stop))

// Values of a gene over the section; missing ones are NaN.
function measured_or_predicted(kind, gene) {
  const number = meta.genes.indexOf(gene), scale = meta.scales[kind]
  const begin = number * meta.n_obs + place.start
  const own = Array.from(codes.get_column(kind).slice(begin, begin + rows))
  return own.map((code) => code === MISSING ? NaN : scale.low[number] + scale.step[number] * code)
}

function of_gene(kind, gene) {
  if (kind !== "error") return measured_or_predicted(kind, gene)
  const truth = measured_or_predicted("measured", gene)
  return measured_or_predicted("predicted", gene).map((value, row) => value - truth[row])
}

// What a view shows: its values, or the categories of a column.
function content(what, gene) {
  if (what === "picture") return {name: "", values: null, unit: "", categories: null}
  if (!what.startsWith("column:")) {
    const mark = what === "predicted" || what === "error" ? place.mark : ""
    return {name: `${gene}, ${what}${mark}`, values: of_gene(what, gene), unit: meta.units[gene] ?? meta.unit, kind: what}
  }
  const column = meta.columns[Number(what.slice(7))]
  const values = part(columns.get_column(what)).map((value) => column.categories && value === MISSING ? NaN : value)
  return {name: column.name, values, unit: column.name, categories: column.categories, colors: column.colors}
}

function limits(shown) {
  const finite = Float64Array.from(shown.values.filter(Number.isFinite)).sort()
  if (finite.length === 0) return [0, 1]
  const [low, high] = ends.value.map((percent) => {
    const place = percent / 100 * (finite.length - 1), below = Math.floor(place)
    return finite[below] + (place - below) * (finite[Math.min(below + 1, finite.length - 1)] - finite[below])
  })
  if (shown.kind === "error") {
    const far = Math.max(Math.abs(low), Math.abs(high)) || 1
    return [-far, far]
  }
  return high > low ? [low, high] : [low - 0.5, low + 0.5]
}

const alike = (shown) => shown.kind === "measured" || shown.kind === "predicted"

// The view whose gene was not chosen follows the other one.
const genes = views.map((view) => view.gene.value)
if (same_gene.active && genes[0] !== genes[1]) {
  const gene = genes[Math.max(views.findIndex((view) => view.gene === cb_obj), 0)]
  for (const view of views.filter((each) => each.gene.value !== gene)) {
    view.gene.options = meta.genes
    view.find.value_input = view.find.value = ""
    view.gene.value = gene // which calls this again
  }
}

const shown = views.map((view) => {
  const gene = meta.genes.includes(view.gene.value) ? view.gene.value : meta.genes[0]
  return {gene, ...content(view.what.value, gene)}
})
const scales = shown.map((each) => each.values === null || each.categories ? null : limits(each))
if (same_scale.active && shown.every(alike)) {
  const both = [Math.min(scales[0][0], scales[1][0]), Math.max(scales[0][1], scales[1][1])]
  scales.fill(both)
}

views.forEach((view, number) => {
  const {name, values, unit, categories, colors: of_categories, kind, gene} = shown[number]
  const colors = new Array(rows).fill(GRAY), said = new Array(rows).fill("")
  view.bar.visible = scales[number] !== null
  if (scales[number] !== null) {
    const [low, high] = scales[number], palette = meta.palettes[kind === "error" ? "error" : colormap.value]
    values.forEach((value, row) => {
      const share = Math.min(Math.max((value - low) / (high - low), 0), 1)
      if (Number.isFinite(value)) colors[row] = palette[Math.min(Math.floor(share * palette.length), palette.length - 1)]
      said[row] = text_of(value)
    })
    view.mapper.setv({palette, low, high})
    view.bar.title = unit
  } else if (categories) {
    values.forEach((value, row) => {
      if (Number.isFinite(value)) colors[row] = of_categories[value]
      said[row] = Number.isFinite(value) ? categories[value] : "no value"
    })
  }
  const used = categories ? categories.map((_, code) => code).filter((code) => values.includes(code)) : []
  view.legend.text = used.map((code) =>
    `<span style="color:${of_categories[code]}">&#9679;</span>&nbsp;${escaped(categories[code])}`).join("&ensp; ")

  const data = {
    x: part(columns.get_column("x")), y: part(columns.get_column("y")), id: part(columns.get_column("id")),
    color: colors, shown: said, radius: new Array(rows).fill(place.diameter / 2), side: new Array(rows).fill(place.side),
    angle: new Array(rows).fill(place.angle),
  }
  for (const each of meta.kinds) data[each] = of_gene(each, gene).map(text_of)
  data.name = new Array(rows).fill(name)
  data.gene = new Array(rows).fill(gene)
  view.spots.data = data
  view.round.visible = values !== null && !place.square
  view.squares.visible = values !== null && place.square
  view.figure.title.text = name === "" ? place.name : `${place.name}: ${name}`
  const [left, right, bottom, top] = place.box
  const picture = place.picture === null ? [] : [place.picture]
  view.picture.data = {
    url: picture, x: picture.map(() => left), y: picture.map(() => top), w: picture.map(() => right - left),
    h: picture.map(() => bottom - top),
  }
})

// Another section: both views, which share their ranges, go there.
if (section.tags[0] !== place.name) {
  section.tags = [place.name]
  const [left, right, bottom, top] = place.box, half = Math.max(right - left, bottom - top) / 2
  const x = (left + right) / 2, y = (bottom + top) / 2
  views[0].figure.x_range.setv({start: x - half, end: x + half, reset_start: x - half, reset_end: x + half})
  views[0].figure.y_range.setv({start: y + half, end: y - half, reset_start: y + half, reset_end: y - half})
}
