// Arrow keys, Home and End move between the images; Enter follows the link, as everywhere.
document.addEventListener("keydown", (event) => {
  const field = event.target.closest("input, select, textarea");
  if (field || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
  const links = [...document.querySelectorAll(".grid a")];
  if (!links.length) return;
  const here = links.indexOf(document.activeElement);
  const below = here < 0 ? -1 : links.findIndex((link, number) =>
    number > here && link.offsetTop > links[here].offsetTop && link.offsetLeft >= links[here].offsetLeft);
  const above = here < 0 ? -1 : links.findLastIndex((link, number) =>
    number < here && link.offsetTop < links[here].offsetTop && link.offsetLeft <= links[here].offsetLeft);
  const next = {
    ArrowRight: Math.min(here + 1, links.length - 1),
    ArrowLeft: Math.max(here - 1, 0),
    ArrowDown: below < 0 ? here : below,
    ArrowUp: above < 0 ? here : above,
    Home: 0,
    End: links.length - 1,
  }[event.key];
  if (next === undefined || next < 0 || (here < 0 && event.key !== "ArrowRight")) return;
  event.preventDefault();
  links[next].focus();
});
