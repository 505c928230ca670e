// Times for people: local and short, with the full one on hover.

const clock = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });
const day = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const dayAndYear = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "long", year: "numeric" });

export const clockTime = (date) => clock.format(date);
export const fullTime = (date) => full.format(date);

export function sameDay(one, other) {
  return one.toDateString() === other.toDateString();
}

export function dayName(date, today = new Date()) {
  const yesterday = new Date(today);
  yesterday.setDate(today.getDate() - 1);
  if (sameDay(date, today)) return "Today";
  if (sameDay(date, yesterday)) return "Yesterday";
  return date.getFullYear() === today.getFullYear() ? day.format(date) : dayAndYear.format(date);
}
