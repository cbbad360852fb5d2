-- Ends the stays whose grace is over: ARGV is now, how many at most.
for _, stay in ipairs(call('ZRANGE', GRACES, '-inf', ARGV[1], 'BYSCORE', 'LIMIT', 0, ARGV[2])) do
  call('ZREM', GRACES, stay)
  local namespace, user = string.match(stay, '^1(%Z*)%z(%Z*)$')
  local room, field = nil, 'n'
  if not namespace then
    namespace, room, user = string.match(stay, '^0(%Z*)%z(.*)%z(%Z*)$')
    field = 'g' .. room
  end
  local stays = STAYS .. namespace .. '\0' .. user
  local _, username = grace(call('HGET', stays, field))
  call('HDEL', stays, field)
  if room then
    -- Of graces that end together the namespace's is the last.
    local away = call('HGET', stays, 'n')
    local gone = away and string.match(away, '^%d+') or 0
    if tonumber(gone) > tonumber(ARGV[1]) then
      gone = 0
    end
    end_in_room(namespace, room, true, user, username, gone)
  else
    call('HDEL', stays, 'a')
    tell('offline', namespace, user, 0, 0, '', '', username)
  end
end
finish()
return told
