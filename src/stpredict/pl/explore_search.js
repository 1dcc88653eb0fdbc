// Narrows the genes that a view offers to those that hold what was typed, and shows the first of them.
const typed = find.value_input.trim().toLowerCase()
const found = genes.filter((gene) => gene.toLowerCase().includes(typed))
find.title = found.length === 0 ? "Search: no such gene" : typed === "" ? "Search" : `Search: ${found.length} of ${genes.length}`
if (found.length > 0) {
  const exact = found.find((gene) => gene.toLowerCase() === typed)
  const current = choice.value
  choice.options = found
  if (exact !== undefined || !found.includes(current)) choice.value = exact ?? found[0]
}
