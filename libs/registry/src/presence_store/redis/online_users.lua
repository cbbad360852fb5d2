-- Users of a namespace: ARGV is namespace, the user behind whom to begin or none, how many.
local namespace = ARGV[1]
local found = {}
for at, user in ipairs(page(ONLINE .. namespace, ARGV[2], ARGV[3])) do
  found[at] = { user, oldest(namespace, user) }
end
return found
