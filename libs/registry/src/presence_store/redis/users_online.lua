-- Whether users are online: ARGV is namespace, then the users. Answers for each, with nothing for one who is not.
local namespace = ARGV[1]
local found = {}
for at = 2, #ARGV do
  local since, username = oldest(namespace, ARGV[at])
  found[at - 1] = since and { since, username } or false
end
return found
